-- The limits of responsible use (rule 9), over half-open windows: what was paid for exactly 24 hours ago no longer
-- counts, nor does what a clock that was set back since let in 24 hours or more ahead. A send that was taken back
-- counts, a free one never.

-- Tells of each request of a batch whether its account may have paid for a send to the same recipient within the
-- cool-down, before the batch or in it: cheap, so that only those are looked at exactly (limit_hit).
create or replace function suspects(
    p_accounts bigint[], p_recipient_ids text[], p_as_ofs timestamptz[], p_cooldown interval
)
returns boolean[]
language plpgsql stable
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    since timestamptz := (select min(r.as_of) from unnest(p_as_ofs) as r (as_of)) - p_cooldown;
begin
    return (
        select array_agg(r.again > 1 or exists (
            select from journal as j
            where
                j.account = r.account and j.code = 'charged' and j.as_of > since
                and j.recipient_id = r.recipient_id
        ) order by r.position)
        from (
            select
                u.account, u.recipient_id, u.position,
                row_number() over (partition by u.account, u.recipient_id order by u.position) as again
            from unnest(p_accounts, p_recipient_ids) with ordinality as u (account, recipient_id, position)
        ) as r
    );
end;
$$;

-- The first limit that a paid send would break, and the first instant at which that one would let it pass; null if
-- none. The arrays are the account's requests of the same batch before this one.
create or replace function limit_hit(
    p_limits send_limits, p_account bigint, p_as_of timestamptz, p_sender_id text, p_recipient_id text,
    p_codes text[], p_as_ofs timestamptz[], p_sender_ids text[], p_recipient_ids text[],
    out what text, out retry_at timestamptz
)
language sql stable
as $$
    with paid as (
        select j.as_of, j.sender_id, j.recipient_id
        from journal as j
        where
            j.account = p_account and j.code = 'charged'
            and j.as_of > p_as_of - greatest(interval '24 hours', p_limits.cooldown)
            and j.as_of < p_as_of + greatest(interval '24 hours', p_limits.cooldown)
        union all
        select b.as_of, b.sender_id, b.recipient_id
        from unnest(p_codes, p_as_ofs, p_sender_ids, p_recipient_ids) as b (code, as_of, sender_id, recipient_id)
        where b.code = 'charged'
    ),

    today as (
        select paid.as_of, paid.sender_id from paid
        where paid.as_of > p_as_of - interval '24 hours' and paid.as_of < p_as_of + interval '24 hours'
    )

    select hit.what, hit.retry_at
    from (
        select 1 as rank, 'account' as what, (
            select today.as_of + interval '24 hours' from today
            order by today.as_of desc offset greatest(p_limits.daily, 1) - 1 limit 1
        ) as retry_at
        where p_limits.daily > 0
        union all
        select 2, 'seat', (
            select today.as_of + interval '24 hours' from today
            where today.sender_id = p_sender_id
            order by today.as_of desc offset greatest(p_limits.seat, 1) - 1 limit 1
        )
        where p_limits.seat > 0
        union all
        select 3, 'recipient', (
            select max(paid.as_of) + p_limits.cooldown from paid
            where
                paid.recipient_id = p_recipient_id
                and paid.as_of > p_as_of - p_limits.cooldown and paid.as_of < p_as_of + p_limits.cooldown
        )
        where p_limits.cooldown > interval '0'
    ) as hit
    where hit.retry_at is not null
    order by hit.rank
    limit 1;
$$;
