-- The first date after an instant on which one of the account's unended subscriptions will give credits, or null.
--
-- Each date is the anchor plus whole months, so an anchor on the 31st gives 28 February and then 31 March.
create or replace function next_allotment(p_account bigint, p_as_of timestamptz)
returns timestamptz
language sql stable
as $$
    select min(due.at)
    from subscriptions as s
    cross join lateral (
        select (s.anchor_at at time zone 'UTC') as anchor, (p_as_of at time zone 'UTC') as as_of
    ) as utc
    cross join lateral (
        select
            (extract(year from utc.as_of) - extract(year from utc.anchor))::integer * 12
            + (extract(month from utc.as_of) - extract(month from utc.anchor))::integer as months
    ) as apart
    cross join lateral (
        -- The anchor's day may lie behind as_of in its month, so the month after is a candidate too.
        select (utc.anchor + make_interval(months => step.n)) at time zone 'UTC' as at
        from generate_series(greatest(apart.months, 0), greatest(apart.months, 0) + 1) as step (n)
    ) as due
    where
        s.account = p_account
        and s.credits > 0
        and due.at > p_as_of
        and (s.ends_at is null or due.at < s.ends_at);
$$;
