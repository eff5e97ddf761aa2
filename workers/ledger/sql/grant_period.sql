-- Decides subscription periods: activations, renewals and plan changes, in the order given.
--
-- p_validity is how long a lot lives. The accounts are locked (lock_accounts) and no request here has a stored answer.
-- What a plan change does is in change_plan.sql, which periods are one in periods.sql, which plan holds in changes.sql.
--
-- Codes, in order of precedence:
--   account_erased          the account was erased
--   subscription_ended      the period starts when the subscription has ended, or later
--   plan_unchanged          a change to the plan that the subscription has already: closes nothing
--   period_already_granted  nothing is left to open, whatever the events' ids; a plan change: the lot of the period
--                           that it begins with was voided
--   no_credits_in_plan      the plan gives 0 credits: accepted, opens no lot
--   plan_changed            the lot of the period that a change begins with had started: it stays, and lacks nothing
--   granted                 its lots are open, the first row is the answer
create or replace function grant_period(
    p_requests request[], p_periods told_period[], p_validity interval, p_low integer
)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    places integer[];
begin
    -- In rounds: in each an account has one request, its second after its first.
    for places in
        select array_agg(d.i order by d.i)
        from (
            select i, row_number() over (partition by p_requests[i].account order by i) as round
            from generate_subscripts(p_requests, 1) as i
        ) as d
        group by d.round
        order by d.round
    loop
        return query select * from grant_round(
            array(select p_requests[i] from unnest(places) as i), array(select p_periods[i] from unnest(places) as i),
            p_validity, p_low
        );
    end loop;
end;
$$;

-- The same for requests of different accounts: decides one after another, and opens the lots of all at the end.
create or replace function grant_round(
    p_requests request[], p_periods told_period[], p_validity interval, p_low integer
)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    all_openings opening[];  -- with the places of their requests, and the next change of each
    places integer[];
    next_changes timestamptz[];
    r request;
    p told_period;
    first told_period;  -- what is told, for its first month
    s subscriptions;
    change timestamptz;  -- the plan change that is told once more, or with an earlier start
    told_by uuid;  -- which event granted for that
    later timestamptz;  -- where the next change to another plan begins
    outdated boolean;
    anchor smallint;
    periods period[];
    to_open opening[];
    granted_by uuid;
    code text;
    told jsonb;
    before bigint;
begin
    for i in 1 .. cardinality(p_requests) loop
        r := p_requests[i];
        p := p_periods[i];
        select x.* into s from subscriptions as x
        where x.account = r.account and x.subscription_id = p.subscription_id;
        anchor := anchor_of(p.period_start, p.anchor_day, s.period_start, s.anchor_day);
        later := case
            when s.changed_at is not null or s.refused_changes is not null
                then next_other_plan(r.account, p.subscription_id, p.period_start, p.plan)
        end;
        periods := periods_of(p, anchor, later);
        granted_by := null;
        change := null;
        told_by := null;
        to_open := null;
        outdated := false;
        if s.changed_at is not null and (p.annual or not p.is_change) then
            first := p;
            first.period_end := periods[1].ends;
            select t.starts, t.granted_by into change, told_by from change_told(r.account, first) as t;
            if p.is_change and change is null then
                select c.starts into change from change_at(r.account, p.subscription_id, p.period_start) as c
                where c.starts = p.period_start and c.plan = p.plan;
            end if;
            if told_by is not null or p.is_change and change is not null then
                -- The later months of such a term are the new plan's: they go on to the change after this one.
                later := next_other_plan(r.account, p.subscription_id, change, p.plan);
                periods := periods_of(p, anchor, later);
            elsif not p.is_change and is_outdated(r.account, p, periods[1]) then
                outdated := true;
                periods := periods[:1];
            end if;
        end if;

        if is_erased(r.account) then
            code := 'account_erased';
        elsif s.ends_at <= p.period_start then
            code := 'subscription_ended';
        elsif p.is_change then
            select x.code, x.granted_by into code, granted_by
            from change_refused(r, p, periods[1]) as x;
            if code = 'plan_unchanged' and change is not null and p.credits > 0 then
                -- A change told once more, as an annual term: what it lacks is that term's later months.
                to_open := openings_of(r.account, p, periods[2:]);
                if to_open is not null then
                    p.is_change := false;
                    code := null;
                    granted_by := null;
                end if;
            end if;
        else
            to_open := openings_of(r.account, p, periods);
            -- A renewal of the new plan that begins a moment before the change is the change, told by another system.
            if told_by is not null then
                if (to_open[1]).starts = p.period_start then
                    to_open := nullif(to_open[2:], '{}');
                end if;
                granted_by := case when to_open is null then told_by end;
            end if;
            code := case when to_open is null then 'period_already_granted' end;
            if code is not null and granted_by is null then
                select l.request_id into granted_by
                from lots_against(r.account, p.subscription_id, periods[1], p.plan) as l
                order by l.plan <> p.plan, l.lot
                limit 1;
            end if;
        end if;

        told := told_of(p) || jsonb_build_object('grant_id', granted_by);
        if code = 'plan_unchanged' then
            first := p;
            first.period_end := periods[1].ends;
            first.anchor_day := anchor;
            perform note_refused(r.account, first);
        end if;
        if code is not null then
            return next book(r, code, p_details => told);
            continue;
        end if;

        if p.is_change or p.credits = 0 then
            before := available(r.account, r.as_of);
        end if;
        if p.is_change then
            return query select * from close_old_lots(r, p, periods, later);
        end if;
        if not outdated then
            -- It tells its plan from the first month on that no other event has: one before may be another plan's.
            p.period_start := coalesce((to_open[1]).starts, p.period_start);
            perform note_period(r, p, anchor, periods[1].ends);
        end if;
        if s.refused_changes is not null then
            if not outdated then
                perform enforce_refused(r.account, p);
            end if;
            -- What is not in force takes nothing of what is granted.
            select min(c.starts) into later from changes_of(r.account, p.subscription_id) as c
            where c.starts >= later and c.plan is distinct from p.plan;
        end if;
        if p.is_change then
            return query select * from change_plan(r, p, periods, p_validity);
        elsif p.credits = 0 then
            return next book(r, 'no_credits_in_plan', p_details => told);
        else
            for k in 1 .. cardinality(to_open) loop
                all_openings := all_openings || to_open[k];
                places := places || i;
                next_changes := next_changes || later;
            end loop;
            continue;
        end if;
        return query select * from cut_after_grant(r, p, later);
        return query select * from settle(r, p_low, before);
    end loop;

    return query select * from grant_allotments(
        array(select p_requests[i] from unnest(places) as i), array(select p_periods[i] from unnest(places) as i),
        all_openings, next_changes, p_validity, p_low
    );
end;
$$;

-- What an allotment opens for months: all its plan's credits, or what they lack; null for nothing. Beside a lot of the
-- same start it tops that up, and its period is that one's where that counts.
create or replace function openings_of(p_account bigint, p_period told_period, p_months period[])
returns opening[]
language plpgsql stable
as $$
begin
    -- Mostly no lot meets the months: which lots are of the same period, and what they lack, need not be asked.
    if not exists (
        select from lots as l
        where
            l.account = p_account and l.subscription_id = p_period.subscription_id and not l.freed and l.tops_up is null
            and l.period_start < p_months[cardinality(p_months)].ends and end_of_period(l) > p_months[1].starts
    ) then
        return (
            select array_agg(row(x.starts, x.ends, p_period.credits, null)::opening order by x.starts)
            from unnest(p_months) as x
        );
    end if;

    return (
        select array_agg(
            row(
                x.starts, coalesce(case when lacking.credits < p_period.credits then same.ends end, x.ends),
                lacking.credits, same.lot
            )::opening order by x.starts
        )
        from unnest(p_months) as x
        cross join lateral credits_lacking(
            p_account, p_period.subscription_id, p_period.plan, p_period.credits, x
        ) as lacking (credits)
        left join lateral (
            select l.lot, end_of_period(l) as ends
            from lots_of_period(p_account, p_period.subscription_id, x) as l
            where l.period_start = x.starts
        ) as same on true
        where lacking.credits is not null
    );
end;
$$;

-- What answers tell of an event's period.
create or replace function told_of(p_period told_period)
returns jsonb
language sql stable
as $$
    select jsonb_build_object(
        'subscription_id', p_period.subscription_id, 'plan', p_period.plan, 'period_start', p_period.period_start
    );
$$;
