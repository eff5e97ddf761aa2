-- The first date after an instant on which one of the account's unended subscriptions will give credits, or null: that
-- of a lot that waits, or of a period to come that nothing tells of yet. One that was voided stays used.
--
-- Which dates there are does not depend on p_as_of, which only says after when they count. So an answer holds until its
-- date comes, unless an event tells otherwise: whoever has it need not ask again (debit.sql, the read API's ETag), and
-- how records were cut into batches changes no answer.
create or replace function next_allotment(p_account bigint, p_as_of timestamptz)
returns timestamptz
language plpgsql stable
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    s subscriptions;
    following timestamptz;
    due timestamptz;
    earliest timestamptz;
    months integer;
begin
    -- Lots that wait; not those that a cancel leaves no time to live.
    select min(l.granted_at) into earliest
    from lots as l
    inner join subscriptions as x on l.account = x.account and l.subscription_id = x.subscription_id
    where
        l.account = p_account and l.open and l.granted_at > p_as_of and l.granted_at < l.expires_at
        and (x.ends_at is null or l.granted_at < x.ends_at);

    for s in
        select x.* from subscriptions as x
        where x.account = p_account and x.period_start is not null and (x.ends_at is null or x.ends_at > p_as_of)
    loop
        select least(earliest, min(d.due)) into earliest from renewals_due(s, p_as_of) as d;

        -- The months from its latest event on, up to the first that nothing tells of.
        if s.credits > 0 then
            months := greatest(0, months_between(s.period_start, p_as_of));
            following := anchored(s.period_start, s.anchor_day, months);
            for step in months + 1 .. months + 15 loop
                due := following;
                following := anchored(s.period_start, s.anchor_day, step);
                exit when due >= earliest or due >= s.ends_at;
                if due > p_as_of
                    and credits_lacking(
                        p_account, s.subscription_id, s.plan, s.credits, row(due, following, false)::period
                    ) > 0
                then
                    earliest := due;
                end if;
            end loop;
        end if;
    end loop;
    return earliest;
end;
$$;

-- The same, where an answer as of p_known_as_of is known already and may still hold.
create or replace function known_or_next_allotment(
    p_account bigint, p_as_of timestamptz, p_known_as_of timestamptz, p_known timestamptz
)
returns timestamptz
language sql stable
as $$
    select case
        when p_known_as_of <= p_as_of and p_as_of < p_known then p_known
        else next_allotment(p_account, p_as_of)
    end;
$$;

-- When a subscription's next period is due by the word of billing: where a period ends that it told of, and nothing
-- tells of what follows. The anchor day alone, from which the other dates are derived, would pass over it: a first
-- period up to the first of a month is shorter than a month, and the one after it begins on the first.
--
-- Where a period ends before the latest event's begins, the plan of that day gives the credits. The books know no plan
-- but by what it gave: one that the latest event does not tell of, and that never opened a lot, is taken for one of 0
-- credits. Later on the latest event's plan gives them: at the end of its own period, or of a later one of its plan.
create or replace function renewals_due(p_subscription subscriptions, p_as_of timestamptz)
returns table (due timestamptz)
language sql stable
as $$
    select e.due
    from lots as l
    cross join lateral end_of_period(l) as e (due)
    where
        l.account = p_subscription.account and l.subscription_id = p_subscription.subscription_id
        and not l.freed and l.tops_up is null
        and e.due > p_as_of and coalesce(e.due < p_subscription.ends_at, true)
        -- Who begins before the one that runs at p_as_of is followed by that: the index spares what is long past.
        and l.period_start >= coalesce(
            (
                select max(x.period_start)
                from lots as x
                where
                    x.account = p_subscription.account and x.subscription_id = p_subscription.subscription_id
                    and not x.freed and x.tops_up is null and x.period_start <= p_as_of
            ),
            '-infinity'
        )
        and not exists (
            select from lots as x
            where
                x.account = p_subscription.account and x.subscription_id = p_subscription.subscription_id
                and not x.freed and x.tops_up is null and x.period_start > l.period_start and x.period_start < e.due
        )
        and case
            when e.due < p_subscription.period_start
                then gives_credits(
                    p_subscription, plan_at(p_subscription.account, p_subscription.subscription_id, e.due)
                )
            when l.period_start = p_subscription.period_start then p_subscription.credits > 0
            when l.period_start > p_subscription.period_start
                then p_subscription.credits > 0 and l.plan = p_subscription.plan
            else false
        end
        and not exists (
            select from lots_of_period(
                p_subscription.account, p_subscription.subscription_id, row(e.due, month_from(e.due), false)::period
            )
        );
$$;

-- Whether a plan of a subscription gives credits, as far as the books know; also where they do not know the plan.
create or replace function gives_credits(p_subscription subscriptions, p_plan text)
returns boolean
language sql stable
as $$
    select case
        when p_plan = p_subscription.plan then p_subscription.credits > 0
        else p_plan is null or exists (
            select from lots as l
            where
                l.account = p_subscription.account and l.subscription_id = p_subscription.subscription_id
                and l.plan = p_plan
        )
    end;
$$;

-- By how many months the month of one time is after that of another.
create or replace function months_between(p_from timestamptz, p_to timestamptz)
returns integer
language sql immutable
as $$
    select (
        (extract(year from p_to at time zone 'UTC') - extract(year from p_from at time zone 'UTC')) * 12
        + extract(month from p_to at time zone 'UTC') - extract(month from p_from at time zone 'UTC')
    )::integer;
$$;
