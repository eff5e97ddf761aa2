-- The first date after an instant on which one of the account's unended subscriptions will give credits, or null: that
-- of a lot that waits, or of a period to come that nothing tells of yet.
create or replace function next_allotment(p_account bigint, p_as_of timestamptz)
returns timestamptz
language sql stable
as $$
    select min(due.at)
    from subscriptions as s
    cross join lateral (
        -- Lots that wait; not those that a cancel leaves no time to live.
        select l.granted_at as at
        from lots as l
        where
            l.account = p_account and l.subscription_id = s.subscription_id and l.open
            and l.granted_at > p_as_of and l.granted_at < l.expires_at
        union all
        -- Periods that no allotment is for. One that was voided stays used.
        select x.starts
        from periods_ahead(s, p_as_of) as x
        where not exists (select from lots_of_period(p_account, s.subscription_id, x))
    ) as due
    where s.account = p_account and (s.ends_at is null or due.at < s.ends_at);
$$;

-- The periods of a subscription that start after an instant, for fourteen months, as far as is known: the months from
-- its latest event on, if that one's plan gives credits; and where that is still to come, what follows the running one.
create or replace function periods_ahead(p_subscription subscriptions, p_as_of timestamptz)
returns setof period
language sql stable
as $$
    select row(
        anchored(p_subscription.period_start, p_subscription.anchor_day, step.n),
        anchored(p_subscription.period_start, p_subscription.anchor_day, step.n + 1),
        false
    )::period
    from (
        select greatest(
            0,
            extract(year from p_as_of at time zone 'UTC') * 12 + extract(month from p_as_of at time zone 'UTC')
            - extract(year from p_subscription.period_start at time zone 'UTC') * 12
            - extract(month from p_subscription.period_start at time zone 'UTC')
        )::integer as months
    ) as apart
    cross join lateral generate_series(apart.months, apart.months + 14) as step (n)
    where
        p_subscription.credits > 0
        and anchored(p_subscription.period_start, p_subscription.anchor_day, step.n) > p_as_of
    union all
    select row(running.ends, month_from(running.ends), false)::period
    from (
        select end_of_period(l) as ends
        from lots as l
        where
            l.account = p_subscription.account and l.subscription_id = p_subscription.subscription_id
            and not l.freed and l.tops_up is null and l.granted_at <= p_as_of
        order by l.granted_at desc, l.lot desc
        limit 1
    ) as running
    where running.ends > p_as_of and running.ends < p_subscription.period_start;
$$;
