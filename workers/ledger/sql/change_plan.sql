-- What a plan change does: the old plan's lots that have not started make room, those that have are kept or forfeited,
-- and the new plan gives its own. Part of grant_period.

-- Why a plan change is refused, and which event granted instead; a code of null where it is not. One that was refused
-- as `plan_unchanged`, and is in force since another plan is known before it, gives its period where it is sent again.
create or replace function change_refused(
    p_request request, p_period told_period, p_first period, out code text, out granted_by uuid
)
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $$
declare
    first told_period := p_period; -- what is told, for its first month
begin
    first.period_end := p_first.ends;
    select 'plan_unchanged', case when t.plan = p_period.plan then t.granted_by end into code, granted_by
    from change_told(p_request.account, first) as t
    where t.starts is not null;
    if found then
        return;
    end if;

    if plan_at(p_request.account, p_period.subscription_id, p_period.period_start) = p_period.plan
        and not exists (
            select from subscriptions as s
            cross join unnest(s.refused_changes) as u
            where
                s.account = p_request.account and s.subscription_id = p_period.subscription_id
                and u.period_start = p_period.period_start and u.period_start = any(s.changes)
        )
    then
        code := 'plan_unchanged';
        select l.request_id into granted_by
        from lots as l
        where
            l.account = p_request.account and l.subscription_id = p_period.subscription_id and not l.freed
            and l.plan = p_period.plan and l.period_start <= p_period.period_start
        order by l.period_start desc, l.lot desc
        limit 1;
        return;
    end if;

    select l.request_id into granted_by
    from lots_against(p_request.account, p_period.subscription_id, p_first, p_period.plan) as l
    where p_request.as_of < l.expires_at and is_voided(l)
    order by l.lot
    limit 1;
    code := case when granted_by is not null then 'period_already_granted' end;
end;
$$;

-- Changes the plan, once what is not kept is closed: opens a lot for each period that has none. Where a lot stays, what
-- it lacks to the new plan's credits is a lot of its own with the same end. The answer is the lot of the change's own
-- period, or a row that says which lot stays there.
create or replace function change_plan(
    p_request request, p_period told_period, p_periods period[], p_validity interval
)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    kept record;
    kept_first integer;
    to_open opening[];
    answers_first boolean;
    told jsonb;
begin
    for k in 1 .. cardinality(p_periods) loop
        select * into kept from lots_kept(p_request, p_period, p_periods[k]);
        if k = 1 then
            kept_first := kept.lot;
        end if;
        if kept.lot is null then
            to_open := to_open || row(p_periods[k].starts, p_periods[k].ends, p_period.credits, null)::opening;
        elsif kept.is_spendable and p_period.credits > kept.granted then
            to_open := to_open
                || row(kept.starts, kept.ends, p_period.credits - kept.granted, kept.lot)::opening;
        end if;
        if k = 1 then
            answers_first := to_open is not null;
        end if;
    end loop;

    told := told_of(p_period) || jsonb_build_object('kept_lot', kept_first);
    if p_period.credits = 0 then
        return next book(p_request, 'no_credits_in_plan', p_details => told);
        return;
    end if;
    if not answers_first then
        return next book(p_request, 'plan_changed', p_details => told);
    end if;
    if to_open is not null then
        return query select * from open_allotments(
            array_fill(p_request, array[cardinality(to_open)]), array_fill(p_period, array[cardinality(to_open)]),
            to_open, p_validity, answers_first
        );
    end if;
end;
$$;

-- Closes lots of the old plan: those of the change's own or later periods that have not started, up to where the next
-- change begins, whose periods are free again; and of what began before, what its plan said to forfeit as it opened. A
-- lot of the new plan that waits makes room too where one of the change's months begins before it and is the same
-- period, up to the next change to another plan (p_next_change): else nothing could be spent from the month's own start
-- on.
create or replace function close_old_lots(
    p_request request, p_period told_period, p_periods period[], p_next_change timestamptz
)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    later timestamptz := next_change(
        p_request.account, p_period.subscription_id, p_period.period_start, p_period.plan
    );
    old record;
begin
    for old in
        select l.lot, l.plan, l.granted_at > p_request.as_of as waiting
        from lots as l
        where
            l.account = p_request.account
            and l.subscription_id = p_period.subscription_id
            and l.open
            and case
                when l.granted_at > p_request.as_of
                    then
                        l.period_start >= p_period.period_start
                        and case
                            when l.plan <> p_period.plan
                                then coalesce(l.period_start < later, true)
                            else
                                coalesce(l.period_start < p_next_change, true)
                                and exists (
                                    select from unnest(p_periods) as x
                                    where
                                        x.starts < l.period_start
                                        and share_most(x.starts, x.ends, l.period_start, end_of_period(l))
                                )
                        end
                else
                    l.period_start < p_period.period_start and l.on_change = 'forfeit'
                    and p_request.as_of < l.expires_at
            end
        order by l.lot
    loop
        return query select * from forfeit_lot(p_request, p_period.subscription_id, old.lot, old.plan);
        if old.waiting then
            update lots as l set freed = true where l.account = p_request.account and l.lot = old.lot;
        end if;
    end loop;
end;
$$;

-- Closes what an event that was read after a plan change has opened for a period before it, where the plan says so: as
-- the change would have closed it, had it been read as it began. What tops up a lot of the change's own period stays.
create or replace function forfeit_late(p_request request, p_period told_period, p_next_change timestamptz)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    late integer;
begin
    for late in
        select l.lot
        from lots as l
        where
            l.account = p_request.account and l.request_id = p_request.request_id and l.open
            and l.on_change = 'forfeit' and l.granted_at <= p_request.as_of and p_request.as_of < l.expires_at
            and l.period_start < p_next_change
        order by l.lot
    loop
        return query select * from forfeit_lot(p_request, p_period.subscription_id, late, p_period.plan);
    end loop;
end;
$$;

-- Closes a lot of a plan that has changed; no row for an empty one.
create or replace function forfeit_lot(p_request request, p_subscription_id text, p_lot integer, p_plan text)
returns setof journal
language sql volatile
as $$
    select * from close_lot(
        p_request, p_lot, 'forfeited',
        jsonb_build_object('subscription_id', p_subscription_id, 'plan', p_plan, 'reason', 'plan_changed'), false, false
    );
$$;

-- The lot that stays for a period, if one does, whether what tops it up can be spent, and what was granted for the
-- period in all. (One that a later change has forfeited, since that was read first, is topped up all the same.)
create or replace function lots_kept(
    p_request request, p_told told_period, p_period period,
    out lot integer, out starts timestamptz, out ends timestamptz, out is_spendable boolean, out granted bigint
)
language sql stable
as $$
    with kept as (
        select l.* from lots_against(p_request.account, p_told.subscription_id, p_period, p_told.plan) as l
    )

    select
        first.lot, first.period_start, end_of_period(first),
        first.granted_at <= p_request.as_of and p_request.as_of < first.expires_at and not is_voided(first),
        (
            select sum(l.granted) from lots as l
            where
                l.account = p_request.account and l.lot >= first.lot
                and exists (select from kept as k where l.lot = k.lot or l.tops_up = k.lot)
        )
    from lots as first
    where first.account = p_request.account and first.lot = (select min(k.lot) from kept as k);
$$;
