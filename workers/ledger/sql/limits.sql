-- The limits of responsible use (rule 9), over half-open windows: what was paid for exactly 24 hours ago no longer
-- counts. A send that was taken back counts, a free one never.

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
        union all
        select b.as_of, b.sender_id, b.recipient_id
        from unnest(p_codes, p_as_ofs, p_sender_ids, p_recipient_ids) as b (code, as_of, sender_id, recipient_id)
        where b.code = 'charged'
    ),

    today as (
        select paid.as_of, paid.sender_id from paid where paid.as_of > p_as_of - interval '24 hours'
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
            where paid.recipient_id = p_recipient_id and paid.as_of > p_as_of - p_limits.cooldown
        )
        where p_limits.cooldown > interval '0'
    ) as hit
    where hit.retry_at is not null
    order by hit.rank
    limit 1;
$$;
