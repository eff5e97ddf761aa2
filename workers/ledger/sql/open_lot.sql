-- Opens one lot and books its grant.
--
-- It opens empty and the journal row fills it, so that what it holds is the sum of its rows from the first on. A
-- subscription that ends during its life clamps it. p_period_end is the end of an allotment's period, and p_tops_up the
-- lot of that period which it tops up.
create or replace function open_lot(
    p_request request, p_terms lot_terms, p_is_answer boolean, p_period_end timestamptz, p_tops_up integer
)
returns journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    number integer;
    ends_at timestamptz;
begin
    select s.ends_at into ends_at from subscriptions as s
    where s.account = p_request.account and s.subscription_id = p_terms.subscription_id;

    update accounts as a set newest_lot = a.newest_lot + 1
    where a.account = p_request.account
    returning a.newest_lot into number;

    insert into lots (
        account, lot, partition, request_id, origin, subscription_id, plan, period_start, priority, on_change,
        credit_back, balance_cap, cap_pending, granted, remaining, granted_at, expires_at, full_expires_at, period_end,
        tops_up
    )
    select
        p_request.account, number, a.partition, p_request.request_id, p_terms.origin, p_terms.subscription_id,
        p_terms.plan, p_terms.period_start, p_terms.priority, p_terms.on_change, p_terms.credit_back,
        p_terms.balance_cap, p_terms.balance_cap is not null and p_terms.granted_at > p_request.as_of, p_terms.credits,
        0, p_terms.granted_at, greatest(p_terms.granted_at, least(p_terms.full_expires_at, ends_at)),
        p_terms.full_expires_at, p_period_end, p_tops_up
    from accounts as a
    where a.account = p_request.account;

    return book(
        p_request, 'granted', p_terms.credits, number, p_is_answer => p_is_answer,
        p_details => jsonb_build_object(
            'origin', p_terms.origin,
            'source_id', p_terms.source_id,
            'subscription_id', p_terms.subscription_id,
            'plan', p_terms.plan,
            'period_start', p_terms.period_start,
            'granted_at', p_terms.granted_at,
            'tops_up', p_tops_up,
            'actor', p_terms.actor,
            'reason', p_terms.reason
        )
    );
end;
$$;

-- The same for a lot of no period.
create or replace function open_lot(p_request request, p_terms lot_terms, p_is_answer boolean)
returns journal
language sql volatile
as $$
    select open_lot(p_request, p_terms, p_is_answer, null, null);
$$;
