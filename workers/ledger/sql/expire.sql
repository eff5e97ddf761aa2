-- One bounded step of a tick: books the end of lots that ended up to the tick's horizon, applies caps to lots that have
-- come to their date, tells holders what has fallen low, and announces lots that end soon. Returns the tick as it
-- stands: `booking` while a further step is due, `booked` when it is answered.
--
-- Availability is a predicate, so nothing depends on when this runs: it turns what is already lost into lines. A step
-- is a transaction of its own (the lane sees to that), so that sends of the same accounts wait for one step at most.
-- Locks accounts in the order of their number, as open_accounts does, and reads the lots again once it holds them: what
-- became due while it waited is left to the next tick.
create or replace function expire_step(
    p_tick request, p_horizon timestamptz, p_lots integer, p_steps integer, p_soon interval, p_low integer
)
returns ticks
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    tick ticks;
    ended lot_keys;
    to_cut lot_keys;
    to_announce lot_keys;
    more boolean;
    booked record;
    cut bigint[];
begin
    insert into ticks as t (
        partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits, complete, steps
    )
    values (
        p_tick.source_partition, p_tick.request_id, p_tick.fingerprint, 'booking', p_tick.source_offset, p_tick.as_of,
        p_horizon, 0, 0, true, 0
    )
    on conflict do nothing;
    -- The horizon is that of its first step.
    select t.* into tick from ticks as t
    where t.partition = p_tick.source_partition and t.request_id = p_tick.request_id
        and t.fingerprint = p_tick.fingerprint;
    if tick.code <> 'booking' then
        return tick;
    end if;

    select array_agg(d.account), array_agg(d.lot) into ended
    from (
        select l.account, l.lot from lots as l
        where l.partition = tick.partition and l.open and l.expires_at <= tick.horizon
        order by l.expires_at, l.account, l.lot
        limit p_lots
    ) as d;
    select array_agg(d.account), array_agg(d.lot) into to_cut
    from (
        select l.account, l.lot from lots as l
        where l.partition = tick.partition and l.cap_pending and l.granted_at <= tick.horizon
        order by l.granted_at, l.account, l.lot
        limit p_lots
    ) as d;
    select array_agg(d.account), array_agg(d.lot) into to_announce
    from (
        select l.account, l.lot from lots as l
        where
            l.partition = tick.partition and l.open and not l.warned
            and l.expires_at > tick.horizon and l.expires_at <= tick.horizon + p_soon
            and l.granted_at <= tick.horizon
        order by l.expires_at, l.account, l.lot
        limit p_lots
    ) as d;
    more := p_lots in (
        coalesce(cardinality(ended.lots), 0), coalesce(cardinality(to_cut.lots), 0),
        coalesce(cardinality(to_announce.lots), 0)
    );

    perform from accounts as a
    where a.account = any(ended.accounts || to_cut.accounts || to_announce.accounts)
    order by a.account
    for no key update;

    booked := book_expired(p_tick, ended, tick.horizon);
    cut := cut_started(p_tick, to_cut, tick.horizon);
    perform tell_fallen(p_tick, booked.accounts || cut, p_low);
    perform announce(p_tick, to_announce, tick.horizon, p_soon);

    update ticks as t
    set
        lots = t.lots + booked.lots,
        credits = t.credits + booked.credits,
        steps = t.steps + 1,
        complete = not more,
        code = case when more and t.steps + 1 < p_steps then 'booking' else 'booked' end
    where t.partition = tick.partition and t.request_id = tick.request_id and t.fingerprint = tick.fingerprint
    returning t.* into tick;
    return tick;
end;
$$;

-- Closes lots that have ended: a row for each that still held credits. A lot spent to nothing is closed without one,
-- since nothing moved. Returns how many lots, how many credits, and the accounts that lost some.
create or replace function book_expired(
    p_tick request, p_lots lot_keys, p_horizon timestamptz,
    out lots integer, out credits bigint, out accounts bigint[]
)
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    still lot_keys;
begin
    -- Again, now that nobody else can touch them: some may have been booked while this waited.
    select array_agg(l.account), array_agg(l.lot) into still
    from unnest(p_lots.accounts, p_lots.lots) as d (account, lot)
    cross join lateral (
        select x.* from lots as x where x.account = d.account and x.lot = d.lot
        offset 0 -- by key: the index of open lots would be read whole for each
    ) as l
    where l.open and l.expires_at <= p_horizon;
    lots := coalesce(cardinality(still.lots), 0);

    with due as (
        select
            l.account, l.lot, l.expires_at, l.remaining,
            row_number() over ordered as step,
            -- What this step takes from the account afterwards still counts in a row's balance.
            b.spendable + coalesce(sum(l.remaining) over rest, 0) as balance_after
        from unnest(still.accounts, still.lots) as d (account, lot)
        inner join lots as l on d.account = l.account and d.lot = l.lot
        cross join lateral (
            select coalesce(sum(x.remaining), 0) as spendable from lots as x
            where x.account = l.account and x.granted_at <= p_tick.as_of and p_tick.as_of < x.expires_at
        ) as b
        where l.remaining > 0
        window
            ordered as (partition by l.account order by l.expires_at, l.lot),
            rest as (
                partition by l.account order by l.expires_at, l.lot
                rows between 1 following and unbounded following
            )
    ),

    counted as (
        update accounts as a
        set sequence = a.sequence + d.steps
        from (select due.account, count(*) as steps from due group by due.account) as d
        where a.account = d.account
    ),

    rows as (
        insert into journal (
            account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
            balance_before, balance_after, as_of, source_partition, source_offset
        )
        select
            d.account, a.sequence + d.step, p_tick.request_id, p_tick.fingerprint, false, p_tick.worker, 'expired',
            -d.remaining, d.lot, d.expires_at, d.balance_after + d.remaining, d.balance_after, p_tick.as_of,
            p_tick.source_partition, p_tick.source_offset
        from due as d
        inner join accounts as a on d.account = a.account
    )

    select coalesce(sum(due.remaining), 0), coalesce(array_agg(distinct due.account), '{}')
    into credits, accounts
    from due;

    update lots as l
    set remaining = 0, open = false
    from unnest(still.accounts, still.lots) as d (account, lot)
    where l.account = d.account and l.lot = d.lot;
end;
$$;

-- Applies the cap of each subscription that has lots which were not spendable yet when they opened and are now: once,
-- by the latest of them. Returns the accounts that lost credits.
create or replace function cut_started(p_tick request, p_lots lot_keys, p_horizon timestamptz)
returns bigint[]
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    latest record;
    cause request := p_tick;
    cut bigint[] := '{}';
begin
    for latest in
        select distinct on (l.account, l.subscription_id) l.account, l.subscription_id, l.balance_cap
        from unnest(p_lots.accounts, p_lots.lots) as d (account, lot)
        inner join lots as l on d.account = l.account and d.lot = l.lot
        where l.cap_pending and l.granted_at <= p_horizon
        order by l.account, l.subscription_id, l.granted_at desc, l.lot desc
    loop
        cause.account := latest.account;
        perform from cut_to_cap(cause, latest.subscription_id, latest.balance_cap, p_horizon);
        if found then
            cut := cut || latest.account;
        end if;
    end loop;

    update lots as l
    set cap_pending = false
    from unnest(p_lots.accounts, p_lots.lots) as d (account, lot)
    where l.account = d.account and l.lot = d.lot and l.cap_pending;
    return cut;
end;
$$;

-- What settle does for one account, for many at once.
create or replace function tell_fallen(p_tick request, p_accounts bigint[], p_low integer)
returns void
language sql volatile
as $$
    with changed as (
        select a.account, a.level as told, balance_level(b.spendable, p_low) as level, b.spendable
        from (select distinct u.account from unnest(p_accounts) as u (account)) as d
        inner join accounts as a on d.account = a.account
        cross join lateral (
            select coalesce(sum(x.remaining), 0) as spendable from lots as x
            where x.account = a.account and x.granted_at <= p_tick.as_of and p_tick.as_of < x.expires_at
        ) as b
        where a.level <> balance_level(b.spendable, p_low)
    ),

    updated as (
        update accounts as a
        set level = c.level, sequence = a.sequence + (c.level > c.told)::integer
        from changed as c
        where a.account = c.account
        returning a.account, a.sequence, c.level, c.told, c.spendable
    )

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount,
        balance_before, balance_after, as_of, source_partition, source_offset, details
    )
    select
        u.account, u.sequence, p_tick.request_id, p_tick.fingerprint, false, p_tick.worker,
        case u.level when 1 then 'low' else 'exhausted' end, 0, u.spendable, u.spendable, p_tick.as_of,
        p_tick.source_partition, p_tick.source_offset,
        case u.level when 1 then jsonb_build_object('threshold', p_low) end
    from updated as u
    where u.level > u.told;
$$;

-- Announces lots that end soon, once each: a row that moves nothing. An empty lot has nothing to lose and is passed.
create or replace function announce(p_tick request, p_lots lot_keys, p_horizon timestamptz, p_soon interval)
returns void
language sql volatile
as $$
    with due as (
        update lots as l
        set warned = true
        from unnest(p_lots.accounts, p_lots.lots) as d (account, lot)
        where
            l.account = d.account and l.lot = d.lot and l.open and not l.warned
            and l.granted_at <= p_horizon and l.expires_at > p_horizon and l.expires_at <= p_horizon + p_soon
        returning l.account, l.lot, l.expires_at, l.remaining
    ),

    told as (
        select due.*, row_number() over (partition by due.account order by due.expires_at, due.lot) as step
        from due
        where due.remaining > 0
    ),

    counted as (
        update accounts as a
        set sequence = a.sequence + d.steps
        from (select told.account, count(*) as steps from told group by told.account) as d
        where a.account = d.account
        returning a.account, a.sequence - d.steps as sequence
    )

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
        balance_before, balance_after, as_of, source_partition, source_offset, details
    )
    select
        t.account, c.sequence + t.step, p_tick.request_id, p_tick.fingerprint, false, p_tick.worker, 'expiring_soon', 0,
        t.lot, t.expires_at, b.spendable, b.spendable, p_tick.as_of, p_tick.source_partition, p_tick.source_offset,
        jsonb_build_object('credits', t.remaining)
    from told as t
    inner join counted as c on t.account = c.account
    cross join lateral (
        select coalesce(sum(x.remaining), 0) as spendable from lots as x
        where x.account = t.account and x.granted_at <= p_tick.as_of and p_tick.as_of < x.expires_at
    ) as b;
$$;
