-- Which periods an event tells of, and when two periods are one: what the rules say of dates.

-- The last day of a time's month.
create or replace function last_day(p_time timestamp)
returns integer
language sql immutable
as $$
    select extract(day from date_trunc('month', p_time) + interval '1 month - 1 day')::integer;
$$;

-- By how many days the calendar in which a start is on its anchor day is ahead of UTC's: by none, or by one where the
-- day that begins there, east of Greenwich, is the anchor. Null for a start beside it. No day begins before 10:00 in
-- UTC of the day before.
create or replace function anchor_shift(p_start timestamptz, p_day smallint)
returns integer
language plpgsql immutable
as $$
declare
    start timestamp := p_start at time zone 'UTC';
    there timestamp := start + interval '1 day';
begin
    if extract(day from start) = least(p_day, last_day(start)) then
        return 0;
    elsif start::time >= time '10:00' and extract(day from there) = least(p_day, last_day(there)) then
        return 1;
    end if;
    return null;
end;
$$;

-- The start of a later period: so many months after a start, on the anchor's day of the month or its last, at the same
-- time of day in UTC. Derived from the anchor and never from the date before, which would drift.
create or replace function anchored(p_start timestamptz, p_day smallint, p_months integer)
returns timestamptz
language plpgsql immutable
as $$
declare
    shift interval := coalesce(anchor_shift(p_start, p_day), 0) * interval '1 day';
    there timestamp := p_start at time zone 'UTC' + shift;
    month timestamp := date_trunc('month', there) + make_interval(months => p_months);
begin
    return (
        month + (least(p_day, last_day(month)) - 1) * interval '1 day' + (there - date_trunc('day', there)) - shift
    ) at time zone 'UTC';
end;
$$;

-- The anchor day of a period: as its event tells it; or the known one, of an earlier event, if the period starts on
-- that in the same calendar; or else the day on which it starts.
create or replace function anchor_of(
    p_start timestamptz, p_told smallint, p_known_start timestamptz, p_known smallint
)
returns smallint
language sql immutable
as $$
    select coalesce(
        p_told,
        case when anchor_shift(p_start, p_known) = anchor_shift(p_known_start, p_known) then p_known end,
        extract(day from p_start at time zone 'UTC')::smallint
    );
$$;

-- The periods that an event tells of: one, or the up to twelve months of an annual term. What begins when the next
-- change to another plan has begun (p_next_change) is that change's affair. A rest of less than a day is no month: a
-- term that starts in summer time and ends in winter time is an hour longer than its months in UTC.
create or replace function periods_of(p_period told_period, p_anchor_day smallint, p_next_change timestamptz)
returns period[]
language plpgsql immutable
as $$
begin
    if not p_period.annual then
        return array[row(p_period.period_start, p_period.period_end, p_period.is_change)::period];
    end if;
    return (
        select array_agg(row(month.starts, month.ends, p_period.is_change and month.n = 0)::period order by month.n)
        from (
            select
                n,
                case when n = 0 then p_period.period_start else anchored(p_period.period_start, p_anchor_day, n) end
                    as starts,
                case
                    when next.starts + interval '1 day' <= p_period.period_end then next.starts
                    else p_period.period_end
                end as ends
            from generate_series(0, 11) as n
            cross join lateral anchored(p_period.period_start, p_anchor_day, n + 1) as next (starts)
        ) as month
        where
            month.n = 0
            or month.starts + interval '1 day' <= p_period.period_end
            and coalesce(month.starts < p_next_change, true)
    );
end;
$$;

-- The allotments of a subscription that are for the same period, voided ones too. Not those that a plan change made
-- room of, nor what tops one of these up.
--
-- Two periods are one if they start together, or share more than half of the shorter. A plan change is no twin of what
-- began before it, unless that is a period of the same plan (p_plan; null: of any) which goes on; nor of what begins
-- after it with a change to the same plan, unless one to another plan is between.
create or replace function lots_of_period(p_account bigint, p_subscription_id text, p_period period, p_plan text)
returns setof lots
language sql stable
as $$
    select l.*
    from lots as l
    where
        l.account = p_account and l.subscription_id = p_subscription_id and not l.freed and l.tops_up is null
        and l.period_start < p_period.ends and end_of_period(l) > p_period.starts
        and (
            l.period_start = p_period.starts
            or share_most(p_period.starts, p_period.ends, l.period_start, end_of_period(l))
            and not case
                when l.period_start < p_period.starts
                    then p_period.begins_change and (l.plan is distinct from p_plan or not goes_on(l, p_period.starts))
                else exists (
                    select from changes_of(p_account, p_subscription_id) as c
                    where
                        c.starts = l.period_start
                        and (
                            p_plan is null or c.plan is distinct from p_plan
                            or next_other_plan(p_account, p_subscription_id, p_period.starts, p_plan) < c.starts
                        )
                )
            end
        );
$$;

-- The same whatever the plan of the period.
create or replace function lots_of_period(p_account bigint, p_subscription_id text, p_period period)
returns setof lots
language sql stable
as $$
    select * from lots_of_period(p_account, p_subscription_id, p_period, null);
$$;

-- Whether two times overlap by more than half of the shorter.
create or replace function share_most(
    p_starts timestamptz, p_ends timestamptz, p_other_starts timestamptz, p_other_ends timestamptz
)
returns boolean
language sql immutable
as $$
    select 2 * (least(p_ends, p_other_ends) - greatest(p_starts, p_other_starts))
        > least(p_ends - p_starts, p_other_ends - p_other_starts);
$$;

-- When the period ends that a lot is the allotment of; a month later for a lot that was opened before that was kept.
create or replace function end_of_period(p_lot lots)
returns timestamptz
language sql immutable
as $$
    select coalesce(p_lot.period_end, month_from(p_lot.period_start));
$$;

-- The same day of the next month, or its last.
create or replace function month_from(p_start timestamptz)
returns timestamptz
language sql immutable
as $$
    select (p_start at time zone 'UTC' + interval '1 month') at time zone 'UTC';
$$;
