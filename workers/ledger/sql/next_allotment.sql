-- The first date after an instant on which one of the account's unended subscriptions will give credits, or null: that
-- of a lot that waits, or of a period to come that nothing tells of yet. One that was voided stays used.
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
        -- Where its latest event tells of what is still to come, a renewal may be due before that.
        if s.period_start > p_as_of then
            select end_of_period(l) into due
            from lots as l
            where
                l.account = p_account and l.subscription_id = s.subscription_id and not l.freed and l.tops_up is null
                and l.granted_at <= p_as_of
            order by l.granted_at desc, l.lot desc
            limit 1;
            if due > p_as_of and due < s.period_start and (s.ends_at is null or due < s.ends_at)
                and not exists (
                    select from lots_of_period(
                        p_account, s.subscription_id, row(due, month_from(due), false)::period
                    )
                )
            then
                earliest := least(earliest, due);
            end if;
        end if;

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
                        p_account, s.subscription_id, s.plan, s.credits, row(due, following, false)::period, p_as_of
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
