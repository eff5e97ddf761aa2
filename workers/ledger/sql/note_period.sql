-- What is noted of a subscription's periods as they are decided: by it later events are decided, and the next allotment
-- is named.

-- Notes the latest period of a subscription, what it gives and on which day of the month; of a change where it begins,
-- to which plan it is, and where its own period ends (p_ends). What an early renewal told of is no period any more
-- where a change that begins before it is to another plan or has freed it. (Plans and ends are null where a version
-- before noted none.)
--
-- Part of grant_period, before its lots open.
create or replace function note_period(
    p_request request, p_period told_period, p_anchor_day smallint, p_ends timestamptz
)
returns void
language plpgsql volatile
as $$
declare
    is_plain boolean;  -- no change or other plan was noted before, as with most
begin
    insert into subscriptions as s (account, subscription_id, plan, credits, period_start, anchor_day)
    values (
        p_request.account, p_period.subscription_id, p_period.plan, p_period.credits, p_period.period_start,
        p_anchor_day
    )
    on conflict (account, subscription_id) do update set
        plan = excluded.plan,
        credits = excluded.credits,
        period_start = excluded.period_start,
        anchor_day = excluded.anchor_day
    where
        s.period_start is null or s.period_start <= excluded.period_start
        or p_period.is_change
        and case
            when s.plan <> excluded.plan
                then
                    coalesce(
                        s.period_start
                        < next_change(s.account, s.subscription_id, excluded.period_start, excluded.plan),
                        true
                    )
            else
                coalesce(
                    s.period_start
                    < next_other_plan(s.account, s.subscription_id, excluded.period_start, excluded.plan),
                    true
                )
                and (
                    select bool_and(l.freed) from lots as l
                    where
                        l.account = s.account and l.subscription_id = s.subscription_id
                        and l.period_start = s.period_start
                )
        end
    returning s.changed_at is null and s.told_starts = '{}' into is_plain;

    if p_period.is_change then
        perform note_change(p_request.account, p_period, p_ends);
        update subscriptions as s set refused_changes = without_start(s.refused_changes, p_period.period_start)
        where
            s.account = p_request.account and s.subscription_id = p_period.subscription_id
            and s.refused_changes is not null;
    end if;

    if p_period.is_change or p_period.credits = 0 or is_plain is not true then
        perform note_told(p_request.account, p_period);
    end if;
end;
$$;

-- Notes a plan change, and what its plan gives.
create or replace function note_change(p_account bigint, p_period told_period, p_ends timestamptz)
returns void
language sql volatile
as $$
    update subscriptions as s set
        changed_at = greatest(s.changed_at, p_period.period_start),
        changes = others.changes || p_period.period_start,
        change_plans = others.change_plans || p_period.plan,
        change_ends = others.change_ends || p_ends,
        change_credits = others.change_credits || p_period.credits
    from (
        select
            coalesce(array_agg(c.starts order by c.n), '{}') as changes,
            coalesce(array_agg(c.plan order by c.n), '{}') as change_plans,
            coalesce(array_agg(c.ends order by c.n), '{}') as change_ends,
            coalesce(array_agg(c.credits order by c.n), '{}') as change_credits
        from changes_of(p_account, p_period.subscription_id) as c
        where c.starts <> p_period.period_start
    ) as others
    where s.account = p_account and s.subscription_id = p_period.subscription_id;
$$;

-- Notes a change that is refused, since its plan is the one known at its start: one to another plan, which begins
-- before it, may be read later. Not one that is noted as a change already.
--
-- p_period has the anchor day, and of an annual term the first month alone.
create or replace function note_refused(p_account bigint, p_period told_period)
returns void
language sql volatile
as $$
    update subscriptions as s set
        refused_changes = array_append(without_start(s.refused_changes, p_period.period_start), p_period)
    where
        s.account = p_account and s.subscription_id = p_period.subscription_id
        and plan_at(p_account, p_period.subscription_id, p_period.period_start) = p_period.plan
        and not exists (
            select from changes_of(p_account, p_period.subscription_id) as c where c.starts = p_period.period_start
        );
$$;

-- Puts a change in force that was refused, since it was to the plan then known, where an event has told of another plan
-- that begins before it and goes on up to it: the change ends that plan. It stays with the refused ones until it is
-- sent again, as its own period has not been granted.
create or replace function enforce_refused(p_account bigint, p_period told_period)
returns void
language plpgsql volatile
as $$
declare
    refused told_period;
begin
    select u.* into refused
    from subscriptions as s
    cross join unnest(s.refused_changes) as u
    where
        s.account = p_account and s.subscription_id = p_period.subscription_id
        and u.plan <> p_period.plan
        and u.period_start = next_change(p_account, p_period.subscription_id, p_period.period_start, p_period.plan)
        and u.period_start <> all(s.changes)
        and plan_at(p_account, p_period.subscription_id, u.period_start - interval '1 microsecond')
        is distinct from u.plan;
    if not found then
        return;
    end if;

    perform note_change(p_account, refused, refused.period_end);
    update subscriptions as s set
        plan = refused.plan, credits = refused.credits, period_start = refused.period_start,
        anchor_day = refused.anchor_day
    where
        s.account = p_account and s.subscription_id = p_period.subscription_id
        and s.period_start < refused.period_start;
end;
$$;

-- Periods without the one of a start.
create or replace function without_start(p_periods told_period[], p_start timestamptz)
returns told_period[]
language sql immutable
as $$
    select array_agg(p) from unnest(p_periods) as p where p.period_start <> p_start;
$$;

-- Notes a period of another plan than the one known that no lot tells of: none opens, or the latest change before it
-- was to another plan. What was noted for the same start goes; a change removes what was noted of other plans from its
-- own start up to the next change.
create or replace function note_told(p_account bigint, p_period told_period)
returns void
language sql volatile
as $$
    with told as (
        select u.starts, u.plan
        from subscriptions as s
        cross join unnest(s.told_starts, s.told_plans) as u (starts, plan)
        where
            s.account = p_account and s.subscription_id = p_period.subscription_id
            and case
                when p_period.is_change
                    then
                        u.starts < p_period.period_start or u.plan = p_period.plan
                        or u.starts
                        >= next_change(s.account, s.subscription_id, p_period.period_start, p_period.plan)
                else u.starts <> p_period.period_start
            end
        union all
        select p_period.period_start, p_period.plan
        where
            not p_period.is_change
            and (
                p_period.credits = 0
                or exists (
                    select from change_at(p_account, p_period.subscription_id, p_period.period_start) as c
                    where c.plan is distinct from p_period.plan
                )
            )
    )

    update subscriptions as s set
        told_starts = (select coalesce(array_agg(t.starts order by t.starts), '{}') from told as t),
        told_plans = (select coalesce(array_agg(t.plan order by t.starts), '{}') from told as t)
    where
        s.account = p_account and s.subscription_id = p_period.subscription_id
        and case
            when p_period.is_change then s.told_starts <> '{}'
            when p_period.credits > 0 and s.told_starts = '{}' and s.changed_at is null then false
            else plan_begun(s.account, s.subscription_id, p_period.period_start) is distinct from p_period.plan
        end;
$$;
