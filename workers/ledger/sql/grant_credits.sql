-- Decides a batch of grants: opens a lot for each one accepted, one journal row for each.
--
-- The arrays are parallel; an account appears at most once (the caller makes rounds of a batch that names it more
-- often), is locked (open_accounts), and no request here has a stored answer. Grants of promotions and surveys come
-- without subscription_id, plan and period_start.
--
-- Codes, in order of precedence:
--   subscription_ended      the period starts when the subscription has ended, or later
--   period_already_granted  the subscription's period has its lot, whatever the event's id
--   no_credits_in_plan      the plan gives 0 credits: accepted, opens no lot
--   granted                 a lot is open; it ends no later than its subscription does
create or replace function grant_credits(
    p_accounts bigint[],
    p_request_ids uuid[],
    p_fingerprints bigint[],
    p_origins text[],
    p_source_ids text[],
    p_subscription_ids text[],
    p_plans text[],
    p_period_starts timestamptz[],
    p_credits integer[],
    p_priorities smallint[],
    p_granted_ats timestamptz[],
    p_expires_ats timestamptz[],
    p_as_ofs timestamptz[],
    p_offsets bigint[],
    p_partition integer
)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    with request as (
        select r.*
        from unnest(
            p_accounts, p_request_ids, p_fingerprints, p_origins, p_source_ids, p_subscription_ids, p_plans,
            p_period_starts, p_credits, p_priorities, p_granted_ats, p_expires_ats, p_as_ofs, p_offsets
        ) as r (
            account, request_id, fingerprint, origin, source_id, subscription_id, plan,
            period_start, credits, priority, granted_at, full_expires_at, as_of, source_offset
        )
    ),

    decided as (
        select
            r.*,
            a.partition,
            a.sequence + 1 as sequence,
            a.newest_lot + 1 as lot,
            available(r.account, r.as_of) as balance,
            -- A subscription that ends inside the period clamps the lot; least() ignores an unknown end.
            least(r.full_expires_at, s.ends_at) as expires_at,
            case
                when s.ends_at <= r.period_start then 'subscription_ended'
                when exists (
                    select from lots as l
                    where
                        l.account = r.account
                        and l.subscription_id = r.subscription_id
                        and l.period_start = r.period_start
                ) then 'period_already_granted'
                when r.credits = 0 then 'no_credits_in_plan'
                else 'granted'
            end as code
        from request as r
        inner join accounts as a on r.account = a.account
        left join subscriptions as s on r.account = s.account and r.subscription_id = s.subscription_id
    ),

    opened as (
        insert into lots (
            account, lot, partition, origin, subscription_id, plan, period_start, priority,
            granted, remaining, granted_at, expires_at, full_expires_at
        )
        select
            d.account, d.lot, d.partition, d.origin, d.subscription_id, d.plan, d.period_start, d.priority,
            d.credits, d.credits, d.granted_at, d.expires_at, d.full_expires_at
        from decided as d
        where d.code = 'granted'
    ),

    subscribed as (
        insert into subscriptions as s (account, subscription_id, plan, credits, anchor_at)
        select d.account, d.subscription_id, d.plan, d.credits, d.period_start
        from decided as d
        where d.subscription_id is not null and d.code in ('granted', 'no_credits_in_plan')
        on conflict (account, subscription_id) do update set
            plan = excluded.plan,
            credits = excluded.credits,
            -- 28 February is anchor 31 shown in a short month: the latest day of month seen is the anchor.
            anchor_at = case
                when
                    s.anchor_at is null
                    or extract(day from s.anchor_at at time zone 'UTC')
                    < extract(day from excluded.anchor_at at time zone 'UTC')
                    then excluded.anchor_at
                else s.anchor_at
            end
    ),

    counted as (
        update accounts as a
        set
            sequence = d.sequence,
            newest_lot = case when d.code = 'granted' then d.lot else a.newest_lot end
        from decided as d
        where a.account = d.account
    )

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
        balance_before, balance_after, as_of, source_partition, source_offset, details
    )
    select
        d.account, d.sequence, d.request_id, d.fingerprint, true, 'billing', d.code,
        case when d.code = 'granted' then d.credits else 0 end,
        case when d.code = 'granted' then d.lot end,
        case when d.code = 'granted' then d.expires_at end,
        d.balance,
        -- A grant for a later period is not spendable yet; one that comes very late no longer is.
        case
            when d.code = 'granted' and d.granted_at <= d.as_of and d.as_of < d.expires_at then d.balance + d.credits
            else d.balance
        end,
        d.as_of, p_partition, d.source_offset,
        jsonb_strip_nulls(jsonb_build_object(
            'origin', d.origin,
            'source_id', d.source_id,
            'subscription_id', d.subscription_id,
            'plan', d.plan,
            'period_start', d.period_start,
            'granted_at', d.granted_at
        ))
    from decided as d
    returning *;
end;
$$;
