-- The plan changes that a subscription knows, and which plan it has at an instant: what an event is held against that
-- is read late, or was sent by who did not know of a change.

-- The plan changes that a subscription knows: where each begins, to which plan it is, where the period ends that it
-- begins, what the plan gives, and its place in the order in which they were read. (Versions before noted less of a
-- change: no credits, or no end, or no plan either, or only where the latest change begins.)
create or replace function changes_of(p_account bigint, p_subscription_id text)
returns table (starts timestamptz, plan text, ends timestamptz, credits integer, n bigint)
language sql stable
as $$
    select c.starts, c.plan, c.ends, c.credits, c.n
    from subscriptions as s
    cross join lateral (
        select
            s.changed_at as starts, null::text as plan, null::timestamptz as ends, null::integer as credits,
            0::bigint as n
        where s.changed_at <> all(s.changes)
        union all
        select u.*
        from unnest(s.changes, s.change_plans, s.change_ends, s.change_credits) with ordinality as u (
            starts, plan, ends, credits, n
        )
    ) as c
    where s.account = p_account and s.subscription_id = p_subscription_id;
$$;

-- The latest plan change that begins by an instant; no row where none does.
create or replace function change_at(p_account bigint, p_subscription_id text, p_at timestamptz)
returns table (starts timestamptz, plan text, ends timestamptz)
language sql stable
as $$
    select c.starts, c.plan, c.ends
    from changes_of(p_account, p_subscription_id) as c
    where c.starts <= p_at
    order by c.starts desc
    limit 1;
$$;

-- The changes as an event of a plan sees them: with those to other plans that were refused, since these were the plans
-- known (subscriptions.refused_changes). The first of them ends the event's plan.
create or replace function changes_seen(p_account bigint, p_subscription_id text, p_plan text)
returns table (starts timestamptz, plan text)
language sql stable
as $$
    select c.starts, c.plan from changes_of(p_account, p_subscription_id) as c
    union all
    select u.period_start, u.plan
    from subscriptions as s
    cross join unnest(s.refused_changes) as u
    where s.account = p_account and s.subscription_id = p_subscription_id and u.plan <> p_plan;
$$;

-- Where the first known plan change begins that is later than an instant.
create or replace function next_change(p_account bigint, p_subscription_id text, p_after timestamptz)
returns timestamptz
language sql stable
as $$
    select min(c.starts) from changes_of(p_account, p_subscription_id) as c where c.starts > p_after;
$$;

-- The same as an event of a plan sees it.
create or replace function next_change(
    p_account bigint, p_subscription_id text, p_after timestamptz, p_plan text
)
returns timestamptz
language sql stable
as $$
    select min(c.starts) from changes_seen(p_account, p_subscription_id, p_plan) as c where c.starts > p_after;
$$;

-- Where the first change to another plan begins that is later than an instant, as an event of a plan sees it. (One to a
-- plan that nobody knows counts, too.)
create or replace function next_other_plan(
    p_account bigint, p_subscription_id text, p_after timestamptz, p_plan text
)
returns timestamptz
language sql stable
as $$
    select min(c.starts)
    from changes_seen(p_account, p_subscription_id, p_plan) as c
    where c.starts > p_after and c.plan is distinct from p_plan;
$$;

-- Whether a period is the one that a plan change begins, told with another start. The change's own is a month at most,
-- and a month where its end is not known.
create or replace function is_of_change(
    p_change timestamptz, p_change_ends timestamptz, p_starts timestamptz, p_ends timestamptz
)
returns boolean
language sql immutable
as $$
    select share_most(p_change, least(p_change_ends, month_from(p_change)), p_starts, p_ends);
$$;

-- The plan at an instant. The latest event tells it from its first month on; before that, what began by then.
create or replace function plan_at(p_account bigint, p_subscription_id text, p_at timestamptz)
returns text
language sql stable
as $$
    select coalesce(
        (
            select s.plan from subscriptions as s
            where s.account = p_account and s.subscription_id = p_subscription_id and s.period_start <= p_at
        ),
        plan_begun(p_account, p_subscription_id, p_at)
    );
$$;

-- What tells of a plan, and from when on: a lot; a plan change, which may leave no lot of its own (its plan is null
-- where a version before noted none); or another period that left none (subscriptions.told_starts). A lot of the old
-- plan that has stayed for a change's own period, and begins later, tells of no plan.
--
-- With one start the higher rank counts: a period before a change, which removes those that were noted before it.
create or replace function plans_told(p_account bigint, p_subscription_id text)
returns table (plan text, starts timestamptz, rank integer)
language sql stable
as $$
    select t.plan, t.starts, 2147483647
    from subscriptions as s
    cross join unnest(s.told_starts, s.told_plans) as t (starts, plan)
    where s.account = p_account and s.subscription_id = p_subscription_id
    union all
    select c.plan, c.starts, 2147483646
    from changes_of(p_account, p_subscription_id) as c
    union all
    select l.plan, l.period_start, l.lot
    from lots as l
    where
        l.account = p_account and l.subscription_id = p_subscription_id and not l.freed
        and not exists (
            select from change_at(l.account, l.subscription_id, l.period_start) as c
            where
                c.starts < l.period_start and c.plan <> l.plan
                and is_of_change(c.starts, c.ends, l.period_start, end_of_period(l))
        );
$$;

-- The plan at an instant as the latest of what began by then tells it.
create or replace function plan_begun(p_account bigint, p_subscription_id text, p_at timestamptz)
returns text
language sql stable
as $$
    select t.plan
    from plans_told(p_account, p_subscription_id) as t
    where t.starts <= p_at and t.plan is not null
    order by t.starts desc, t.rank desc
    limit 1;
$$;

-- Whether a lot goes on in a change to its own plan that begins later: nothing tells of another plan between, and the
-- lot has not stayed for the month of a change to another plan that gives credits, where it counts. So where a change
-- before the lot was read after it, and ended its plan.
create or replace function goes_on(p_lot lots, p_change timestamptz)
returns boolean
language sql stable
as $$
    select
        not exists (
            select from plans_told(p_lot.account, p_lot.subscription_id) as t
            where t.starts between p_lot.period_start and p_change and t.plan is distinct from p_lot.plan
        )
        and not exists (
            select from changes_of(p_lot.account, p_lot.subscription_id) as c
            where
                c.starts = (
                    select x.starts from change_at(p_lot.account, p_lot.subscription_id, p_lot.period_start) as x
                )
                and c.plan is distinct from p_lot.plan and c.credits is distinct from 0
                and is_of_change(c.starts, c.ends, p_lot.period_start, end_of_period(p_lot))
        );
$$;

-- The plan change that an event tells of with an earlier start: the next one, if it is to the same plan and the periods
-- share more than half of the shorter. Two systems tell of one change a moment apart, and the later start may be read
-- first. Also which event granted for it, and for which plan: that of the change's own lot or of what tops one up, or
-- else of one that stays. (To which plan a change was, only its lot tells where a version before noted no plan.)
create or replace function change_told(
    p_account bigint, p_period told_period, out starts timestamptz, out plan text, out granted_by uuid
)
language sql stable
as $$
    select c.starts, own.plan, own.request_id
    from next_change(p_account, p_period.subscription_id, p_period.period_start, p_period.plan) as next (starts)
    inner join changes_of(p_account, p_period.subscription_id) as c on next.starts = c.starts
    left join lateral (
        select l.plan, l.request_id, l.period_start, end_of_period(l) as ends
        from lots as l
        where
            l.account = p_account and l.subscription_id = p_period.subscription_id and not l.freed
            and (
                l.period_start = c.starts
                or is_of_change(c.starts, c.ends, l.period_start, end_of_period(l))
                and c.starts = (
                    select x.starts from change_at(p_account, p_period.subscription_id, l.period_start) as x
                )
            )
        order by l.plan <> p_period.plan, l.lot
        limit 1
    ) as own on true
    where
        p_period.plan = coalesce(c.plan, own.plan)
        and share_most(
            p_period.period_start, p_period.period_end,
            c.starts,
            coalesce(c.ends, case when own.period_start = c.starts then own.ends else month_from(c.starts) end)
        );
$$;

-- Whether an allotment's event was sent by who did not know of the plan change before it, whose plan is the one that
-- holds: it is of the plan before the change, if that is known, and starts as the change does, or within a day of that,
-- or tells of a month that has its lot from then on.
create or replace function is_outdated(p_account bigint, p_period told_period, p_first period)
returns boolean
language sql stable
as $$
    select exists (
        select from change_at(p_account, p_period.subscription_id, p_period.period_start) as c
        where
            c.plan <> p_period.plan
            and c.plan = plan_at(p_account, p_period.subscription_id, p_period.period_start)
            and p_period.plan = coalesce(
                plan_at(p_account, p_period.subscription_id, c.starts - interval '1 microsecond'), p_period.plan
            )
            and (
                p_period.period_start < c.starts + interval '1 day'
                or exists (
                    select from lots_of_period(p_account, p_period.subscription_id, p_first) as l
                    where l.period_start >= c.starts
                )
            )
    );
$$;

-- The lots of a period that a plan's month is held against: what began before a change has no month after it, however
-- long its period is, where the lot is of another plan, or the change is to this one and the lot does not go on.
create or replace function lots_against(p_account bigint, p_subscription_id text, p_period period, p_plan text)
returns setof lots
language sql stable
as $$
    select l.*
    from lots_of_period(p_account, p_subscription_id, p_period, p_plan) as l
    left join change_at(p_account, p_subscription_id, p_period.starts) as c on true
    where
        c.starts is null or l.period_start >= c.starts
        or l.plan = p_plan and (c.plan is distinct from p_plan or goes_on(l, c.starts));
$$;

-- How many of its plan's credits an allotment gives for a month: all where none has its lot, null where one has.
--
-- A lot of another plan that began after the change to this plan does not have the month: that change, or the lot, was
-- read late. It counts for what it gave and was not withdrawn, so that nobody is paid by two plans, and nobody who paid
-- for the new one gets nothing. What stays for the change's own month counts there, and for no later one.
create or replace function credits_lacking(
    p_account bigint, p_subscription_id text, p_plan text, p_credits integer, p_month period
)
returns integer
language sql stable
as $$
    select case
        when count(*) = 0 then p_credits
        when bool_and(
            c.plan = p_plan and l.plan <> p_plan and l.period_start > c.starts and gave.tops_up is not true
            and not is_of_change(c.starts, c.ends, p_month.starts, p_month.ends)
        ) and p_credits > coalesce(sum(gave.credits), 0) then p_credits - coalesce(sum(gave.credits), 0)
    end::integer
    from lots_against(p_account, p_subscription_id, p_month, p_plan) as l
    left join change_at(p_account, p_subscription_id, p_month.starts) as c on true
    cross join lateral is_of_change(c.starts, c.ends, l.period_start, end_of_period(l)) as stays (for_change)
    left join lateral (
        select
            sum(x.granted) filter (where not stays.for_change and not is_withdrawn(x)) as credits,
            bool_or(x.tops_up = l.lot and x.plan = p_plan) filter (
                where not stays.for_change or l.period_start = p_month.starts
            ) as tops_up -- is this month's own already
        from lots as x
        -- What tops a lot up opened after it: no older lots are read, since their number grows for ever.
        where x.account = p_account and x.lot >= l.lot and (x.lot = l.lot or x.tops_up = l.lot)
    ) as gave on true;
$$;

-- Whether a lot was closed before its time. Of one that a version before has closed the journal tells, but where it was
-- empty when a plan change forfeited it: it gave what was spent of it.
create or replace function is_withdrawn(p_lot lots)
returns boolean
language sql stable
as $$
    select coalesce(
        p_lot.withdrawn,
        not p_lot.open and exists (
            select from journal as j
            where j.account = p_lot.account and j.lot = p_lot.lot and j.code in ('voided', 'forfeited')
        )
    );
$$;

-- Whether billing withdrew a lot: one that a plan change has forfeited was paid. Of a plan that forfeits only the
-- journal tells which it was.
create or replace function is_voided(p_lot lots)
returns boolean
language sql stable
as $$
    select is_withdrawn(p_lot) and (
        p_lot.on_change = 'keep' or exists (
            select from journal as j
            where j.account = p_lot.account and j.lot = p_lot.lot and j.code = 'voided'
        )
    );
$$;
