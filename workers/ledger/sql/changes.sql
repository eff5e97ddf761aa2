-- The plan changes that a subscription knows, and which plan it has at an instant: what an event is held against that
-- is read late, or was sent by who did not know of a change.

-- Where the first known plan change begins that is later than an instant.
create or replace function next_change(p_account bigint, p_subscription_id text, p_after timestamptz)
returns timestamptz
language sql stable
as $$
    select min(c.starts)
    from subscriptions as s
    cross join unnest(s.changes || s.changed_at) as c (starts)
    where s.account = p_account and s.subscription_id = p_subscription_id and c.starts > p_after;
$$;

-- The plan of the latest period that began by an instant, as the latest event, plan changes and lots tell: a change may
-- leave no lot of its own.
create or replace function plan_at(p_account bigint, p_subscription_id text, p_at timestamptz)
returns text
language sql stable
as $$
    select known.plan
    from (
        select l.plan, l.period_start, l.lot
        from lots as l
        where l.account = p_account and l.subscription_id = p_subscription_id and not l.freed
        union all
        select c.plan, c.starts, 2147483646
        from subscriptions as s
        cross join unnest(s.changes, s.change_plans) as c (starts, plan)
        where s.account = p_account and s.subscription_id = p_subscription_id and c.plan is not null
        union all
        select s.plan, s.period_start, 2147483647
        from subscriptions as s
        where s.account = p_account and s.subscription_id = p_subscription_id
    ) as known
    where known.period_start <= p_at
    order by known.period_start desc, known.lot desc
    limit 1;
$$;

-- A lot by which the change is known already that an event tells of: that of the next change after its start, if it is
-- to the same plan and shares more than half of the shorter period. Two systems tell of one change a moment apart, and
-- the later start may be read first. The lot is the change's own or what tops one up, if it has one, or else one that
-- stays. (To which plan a change was, only its lot tells where a version before noted no plan.)
create or replace function lot_of_same_change(p_account bigint, p_period told_period)
returns setof lots
language sql stable
as $$
    select l.*
    from lots as l
    where
        l.account = p_account and l.subscription_id = p_period.subscription_id and not l.freed
        and l.period_start = next_change(p_account, p_period.subscription_id, p_period.period_start)
        and share_most(p_period.period_start, p_period.period_end, l.period_start, end_of_period(l))
        and p_period.plan = coalesce(
            (
                select c.plan
                from subscriptions as s
                cross join unnest(s.changes, s.change_plans) as c (starts, plan)
                where
                    s.account = l.account and s.subscription_id = l.subscription_id and c.starts = l.period_start
            ),
            l.plan
        )
    order by l.plan <> p_period.plan, l.lot
    limit 1;
$$;

-- Whether an event tells of another plan than the change does that begins where the event's period begins: it was sent
-- before its sender knew of the change. (Of a change of null, noted by a version before, nobody knows.)
create or replace function is_outdated(p_subscription subscriptions, p_period told_period)
returns boolean
language sql immutable
as $$
    select not p_period.is_change and exists (
        select from unnest(p_subscription.changes, p_subscription.change_plans) as c (starts, plan)
        where c.starts = p_period.period_start and c.plan <> p_period.plan
    );
$$;
