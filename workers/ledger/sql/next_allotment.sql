-- The first date after an instant on which one of the account's unended subscriptions will give credits, or null.
--
-- Each date is derived from the anchor day, so the 31st gives 28 February and then 31 March. A period whose lot was
-- voided gives nothing.
create or replace function next_allotment(p_account bigint, p_as_of timestamptz)
returns timestamptz
language sql stable
as $$
    select min(due.at)
    from subscriptions as s
    cross join lateral (
        select
            extract(year from p_as_of at time zone 'UTC') * 12 + extract(month from p_as_of at time zone 'UTC')
            - extract(year from s.period_start at time zone 'UTC') * 12
            - extract(month from s.period_start at time zone 'UTC') as months
    ) as apart
    cross join lateral (
        select anchored(s.period_start, s.anchor_day, step.n) as at
        from generate_series(greatest(apart.months, 0)::integer, greatest(apart.months, 0)::integer + 14) as step (n)
    ) as due
    where
        s.account = p_account
        and s.credits > 0
        and due.at > p_as_of
        and (s.ends_at is null or due.at < s.ends_at)
        and not exists (
            select from lots as l
            where
                l.account = p_account and l.subscription_id = s.subscription_id and l.period_start = due.at
                and not l.open and not l.freed
        );
$$;

-- The start of a later period: so many months after a start, on the anchor's day of the month or its last, at the same
-- time of day in UTC.
create or replace function anchored(p_start timestamptz, p_day smallint, p_months integer)
returns timestamptz
language sql immutable
as $$
    select (
        first.day + (least(p_day, extract(day from first.day + interval '1 month - 1 day')::integer) - 1)
        * interval '1 day' + ((p_start at time zone 'UTC') - date_trunc('day', p_start at time zone 'UTC'))
    ) at time zone 'UTC'
    from (
        select date_trunc('month', p_start at time zone 'UTC') + make_interval(months => p_months) as day
    ) as first;
$$;
