-- Opens lots and books their grants, in the order given: all in one statement, since starting one that writes to lots
-- or to the journal, whose checks are parsed anew each time, costs several times what it writes for one lot.
--
-- The arrays are parallel, and the lots of one account are of one request, which is repeated for each. A subscription
-- that ends during a lot's life clamps it. p_period_ends are the ends of allotments' periods, and p_tops_up the lots
-- that they top up. The first row of a request is its answer, unless p_first_is_answer is false.
create or replace function open_lots(
    p_requests request[], p_terms lot_terms[], p_period_ends timestamptz[], p_tops_up integer[],
    p_first_is_answer boolean
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
    with asked as (
        select
            u.*, a.partition, a.sequence, a.newest_lot,
            greatest(u.granted_at, least(u.full_expires_at, s.ends_at)) as expires_at,
            row_number() over (partition by u.account order by u.position) as step,
            count(*) over (partition by u.account) as steps
        from unnest(p_requests, p_terms, p_period_ends, p_tops_up) with ordinality as u (
            account, request_id, fingerprint, worker, as_of, source_partition, source_offset,
            origin, source_id, subscription_id, plan, period_start, credits, priority, granted_at, full_expires_at,
            on_change, credit_back, balance_cap, actor, reason,
            period_end, tops_up, position
        )
        inner join accounts as a on u.account = a.account
        left join subscriptions as s on u.account = s.account and u.subscription_id = s.subscription_id
    ),

    -- What each lot adds to what can be spent at as_of, and all up to it.
    granted as (
        select
            x.*, x.newest_lot + x.step::integer as lot, b.credits as spendable, now.credits as added,
            sum(now.credits) over (partition by x.account order by x.step) as added_in_all
        from asked as x
        cross join lateral spendable(x.account, x.as_of) as b
        cross join lateral (
            select case when x.granted_at <= x.as_of and x.as_of < x.expires_at then x.credits else 0 end as credits
        ) as now
    ),

    opened as (
        insert into lots (
            account, lot, partition, request_id, origin, subscription_id, plan, period_start, priority, on_change,
            credit_back, balance_cap, cap_pending, granted, remaining, granted_at, expires_at, full_expires_at,
            period_end, tops_up
        )
        select
            g.account, g.lot, g.partition, g.request_id, g.origin, g.subscription_id, g.plan, g.period_start,
            g.priority, g.on_change, g.credit_back, g.balance_cap,
            g.balance_cap is not null and g.granted_at > g.as_of, g.credits, g.credits, g.granted_at, g.expires_at,
            g.full_expires_at, g.period_end, g.tops_up
        from granted as g
    ),

    counted as (
        update accounts as a
        set sequence = g.sequence + g.steps, newest_lot = g.lot
        from granted as g
        where a.account = g.account and g.step = g.steps
    )

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
        balance_before, balance_after, as_of, source_partition, source_offset, details
    )
    select
        g.account, g.sequence + g.step, g.request_id, g.fingerprint, p_first_is_answer and g.step = 1, g.worker,
        'granted', g.credits, g.lot, g.expires_at, g.spendable + g.added_in_all - g.added,
        g.spendable + g.added_in_all, g.as_of, g.source_partition, g.source_offset,
        jsonb_strip_nulls(jsonb_build_object(
            'origin', g.origin,
            'source_id', g.source_id,
            'subscription_id', g.subscription_id,
            'plan', g.plan,
            'period_start', g.period_start,
            'granted_at', g.granted_at,
            'tops_up', g.tops_up,
            'actor', g.actor,
            'reason', g.reason
        ))
    from granted as g
    order by g.position
    returning *;
end;
$$;
