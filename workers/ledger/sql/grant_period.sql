-- Decides subscription periods: activations, renewals and plan changes, in the order given.
--
-- p_lots are the lots that each request would open, in date order, p_owners the requests' numbers: one for a month,
-- twelve for an annual term; those of a plan of 0 credits only tell its periods. The accounts are locked
-- (open_accounts) and no request here has a stored answer.
--
-- Codes, in order of precedence:
--   account_erased          the account was erased
--   subscription_ended      the period starts when the subscription has ended, or later
--   period_already_granted  nothing is left to open, whatever the events' ids; a plan change: the lot of the period
--                           that it begins with has started or was voided
--   no_credits_in_plan      the plan gives 0 credits: accepted, opens no lot
--   granted                 its lots are open, the first row is the answer
create or replace function grant_period(
    p_requests request[], p_subscription_ids text[], p_plans text[], p_period_starts timestamptz[],
    p_anchor_days smallint[], p_credits integer[], p_changes boolean[], p_owners integer[], p_lots lot_terms[],
    p_low integer
)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    r request;
    n integer := 1;  -- the next of p_lots
    to_open lot_terms[];
    code text;
    told jsonb;
    before bigint;
begin
    for i in 1 .. cardinality(p_requests) loop
        r := p_requests[i];
        told := jsonb_build_object(
            'subscription_id', p_subscription_ids[i], 'plan', p_plans[i], 'period_start', p_period_starts[i]
        );
        to_open := '{}';
        while p_owners[n] = i loop
            if period_is_free(r, p_subscription_ids[i], p_lots[n].period_start, p_changes[i]) then
                to_open := to_open || p_lots[n];
            end if;
            n := n + 1;
        end loop;

        select case
            when a.erased_at is not null then 'account_erased'
            when s.ends_at <= p_period_starts[i] then 'subscription_ended'
            when
                cardinality(to_open) = 0
                or p_changes[i] and not period_is_free(r, p_subscription_ids[i], p_period_starts[i], true)
                then 'period_already_granted'
            when p_credits[i] = 0 then 'no_credits_in_plan'
            else 'granted'
        end
        into code
        from accounts as a
        left join subscriptions as s on s.account = a.account and s.subscription_id = p_subscription_ids[i]
        where a.account = r.account;

        if code not in ('granted', 'no_credits_in_plan') then
            return next book(r, code, p_details => told);
            continue;
        end if;

        before := available(r.account, r.as_of);
        perform note_period(r, p_subscription_ids[i], p_plans[i], p_credits[i], p_period_starts[i], p_anchor_days[i]);
        if p_changes[i] then
            return query select * from close_for_change(r, p_subscription_ids[i], p_period_starts[i]);
        end if;
        if code = 'no_credits_in_plan' then
            return next book(r, code, p_details => told);
        else
            return query select * from open_lots(r, to_open);
        end if;
        return query select * from settle(r, p_low, before);
    end loop;
end;
$$;

-- Tells whether a period of a subscription has no lot. A plan change may also have those that it will close.
create or replace function period_is_free(
    p_request request, p_subscription_id text, p_period_start timestamptz, p_change boolean
)
returns boolean
language sql stable
as $$
    select not exists (
        select from lots as l
        where
            l.account = p_request.account
            and l.subscription_id = p_subscription_id
            and l.period_start = p_period_start
            and not l.freed
            and not (p_change and l.open and l.granted_at > p_request.as_of)
    );
$$;

-- Notes the latest period of a subscription: what it gives and on which day of the month.
--
-- A period that starts on the last day of a short month may be of a later anchor, shown there: 28 February of an anchor
-- on the 31st, which an earlier period or the event itself told.
create or replace function note_period(
    p_request request, p_subscription_id text, p_plan text, p_credits integer, p_period_start timestamptz,
    p_anchor_day smallint
)
returns void
language sql volatile
as $$
    insert into subscriptions as s (account, subscription_id, plan, credits, period_start, anchor_day)
    select
        p_request.account, p_subscription_id, p_plan, p_credits, p_period_start,
        coalesce(p_anchor_day, extract(day from p_period_start at time zone 'UTC'))
    on conflict (account, subscription_id) do update set
        plan = excluded.plan,
        credits = excluded.credits,
        period_start = excluded.period_start,
        anchor_day = case
            when
                p_anchor_day is null
                and s.anchor_day > excluded.anchor_day
                and extract(day from p_period_start at time zone 'UTC' + interval '1 day') = 1
                then s.anchor_day
            else excluded.anchor_day
        end
    where s.period_start is null or s.period_start <= excluded.period_start;
$$;

-- Closes what a plan change does not keep: lots of its own or later periods that have not started, whose periods are
-- free again, and started ones whose plan said `on_change = "forfeit"` as they opened.
create or replace function close_for_change(p_request request, p_subscription_id text, p_period_start timestamptz)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    old record;
begin
    for old in
        select l.lot, l.plan, l.granted_at > p_request.as_of as waiting
        from lots as l
        where
            l.account = p_request.account
            and l.subscription_id = p_subscription_id
            and l.open
            and case
                when l.granted_at > p_request.as_of then l.period_start >= p_period_start
                else l.on_change = 'forfeit' and p_request.as_of < l.expires_at
            end
        order by l.lot
    loop
        return query select * from close_lot(
            p_request, old.lot, 'forfeited', jsonb_build_object(
                'subscription_id', p_subscription_id, 'plan', old.plan, 'reason', 'plan_changed'
            ), false, false
        );
        if old.waiting then
            update lots as l set freed = true where l.account = p_request.account and l.lot = old.lot;
        end if;
    end loop;
end;
$$;

-- Opens the lots of one period or term, the first as the answer, and applies their cap if credits became spendable.
create or replace function open_lots(p_request request, p_lots lot_terms[])
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    first journal;
begin
    first := open_lot(p_request, p_lots[1], true);
    return next first;
    for k in 2 .. cardinality(p_lots) loop
        return next open_lot(p_request, p_lots[k], false);
    end loop;

    if p_lots[1].balance_cap is not null and p_lots[1].granted_at <= p_request.as_of
        and p_request.as_of < first.lot_expires_at
    then
        return query select * from cut_to_cap(
            p_request, p_lots[1].subscription_id, p_lots[1].balance_cap, p_request.as_of
        );
    end if;
end;
$$;
