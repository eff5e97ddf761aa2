-- One bounded step of a tick: applies caps to lots that have come to their date, books the end of lots that ended up to
-- the tick's horizon, tells holders what has fallen low, and announces lots that end soon. Returns the tick as it
-- stands: `booking` while a further step is due, `booked` when it is answered, `key_conflict` where another body had
-- its id first.
--
-- Availability is a predicate, so nothing depends on when this runs: it turns what is already lost into lines. A step
-- is a transaction of its own (the lane sees to that), so that sends of the same accounts wait for one step at most.
-- Locks accounts in the order of their number, as lock_accounts does, and reads the lots again once it holds them: what
-- became due while it waited is left to the next tick. Each step goes on behind the last one: what that booked lies
-- dead at the front of the index, and would be passed again and again.
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
    to_book due_lots;
    to_cut due_lots;
    to_announce due_lots;
    more boolean;
    booked record;
begin
    insert into ticks as t (
        partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits, complete, steps
    )
    select
        p_tick.source_partition, p_tick.request_id, p_tick.fingerprint,
        case when exists (
            select from ticks as x
            where x.partition = p_tick.source_partition and x.request_id = p_tick.request_id
                and x.fingerprint <> p_tick.fingerprint
        ) then 'key_conflict' else 'booking' end,
        p_tick.source_offset, p_tick.as_of, p_horizon, 0, 0, true, 0
    on conflict do nothing;
    -- The horizon is that of its first step.
    select t.* into tick from ticks as t
    where t.partition = p_tick.source_partition and t.request_id = p_tick.request_id
        and t.fingerprint = p_tick.fingerprint;
    if tick.code <> 'booking' then
        return tick;
    end if;

    select array_agg(d.account), array_agg(d.lot), array_agg(d.expires_at) into to_book
    from (
        select l.account, l.lot, l.expires_at from lots as l
        where
            l.partition = tick.partition and l.open and l.expires_at <= tick.horizon
            and (l.expires_at, l.account, l.lot) > ((tick.ended).at, (tick.ended).account, (tick.ended).lot)
        order by l.expires_at, l.account, l.lot
        limit p_lots
    ) as d;
    select array_agg(d.account), array_agg(d.lot), array_agg(d.granted_at) into to_cut
    from (
        select l.account, l.lot, l.granted_at from lots as l
        where
            l.partition = tick.partition and l.cap_pending and l.granted_at <= tick.horizon
            and (l.granted_at, l.account, l.lot) > ((tick.cut).at, (tick.cut).account, (tick.cut).lot)
        order by l.granted_at, l.account, l.lot
        limit p_lots
    ) as d;
    select array_agg(d.account), array_agg(d.lot), array_agg(d.expires_at) into to_announce
    from (
        select l.account, l.lot, l.expires_at from lots as l
        where
            l.partition = tick.partition and l.open and not l.warned
            and l.expires_at > tick.horizon and l.expires_at <= tick.horizon + p_soon
            and l.granted_at <= tick.horizon
            and (l.expires_at, l.account, l.lot)
            > ((tick.announced).at, (tick.announced).account, (tick.announced).lot)
        order by l.expires_at, l.account, l.lot
        limit p_lots
    ) as d;
    more := p_lots in (
        coalesce(cardinality(to_book.lots), 0), coalesce(cardinality(to_cut.lots), 0),
        coalesce(cardinality(to_announce.lots), 0)
    );

    perform from accounts as a
    where a.account = any(to_book.accounts || to_cut.accounts || to_announce.accounts)
    order by a.account
    for no key update;

    perform cut_started(
        p_tick, to_book.accounts || to_cut.accounts || to_announce.accounts, tick.horizon, p_low
    );
    booked := book_expired(p_tick, to_book, tick.horizon, p_low);
    perform announce(p_tick, to_announce, tick.horizon, p_soon, p_low);

    update ticks as t
    set
        lots = t.lots + booked.lots,
        credits = t.credits + booked.credits,
        steps = t.steps + 1,
        complete = coalesce(cardinality(to_book.lots), 0) < p_lots,
        code = case when more and t.steps + 1 < p_steps then 'booking' else 'booked' end,
        ended = last_of(to_book, t.ended),
        cut = last_of(to_cut, t.cut),
        announced = last_of(to_announce, t.announced)
    where t.partition = tick.partition and t.request_id = tick.request_id and t.fingerprint = tick.fingerprint
    returning t.* into tick;
    return tick;
end;
$$;

-- The place of the last of some lots; where there are none, the place before.
create or replace function last_of(p_lots due_lots, p_before lot_place)
returns lot_place
language sql immutable
as $$
    select case
        when cardinality(p_lots.lots) > 0
            then row(
                p_lots.ats[cardinality(p_lots.ats)], p_lots.accounts[cardinality(p_lots.accounts)],
                p_lots.lots[cardinality(p_lots.lots)]
            )::lot_place
        else p_before
    end;
$$;

-- Closes lots that have ended: a row for each that still held credits, and a notice for an account that fell. A lot
-- spent to nothing is closed without one, since nothing moved. Returns how many lots, and how many credits.
create or replace function book_expired(
    p_tick request, p_lots due_lots, p_horizon timestamptz, p_low integer, out lots integer, out credits bigint
)
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    with due as (
        -- Again, now that nobody else can touch them: some may have been booked while this waited.
        select l.account, l.lot, l.expires_at, l.remaining
        from unnest(p_lots.accounts, p_lots.lots) as d (account, lot)
        cross join lateral (
            select x.* from lots as x where x.account = d.account and x.lot = d.lot
            offset 0 -- by key: the index of open lots would be read whole for each
        ) as l
        where l.open and l.expires_at <= p_horizon
    ),

    closed as (
        update lots as l
        set remaining = 0, open = false
        from due as d
        where l.account = d.account and l.lot = d.lot
    ),

    lost as (
        select
            d.account, d.lot, d.expires_at, d.remaining, a.sequence, s.credits as spendable,
            balance_level(s.credits, p_low) as level,
            balance_level(s.credits, p_low) > a.level and a.erased_at is null as fell,
            row_number() over (partition by d.account order by d.expires_at, d.lot) as step,
            count(*) over (partition by d.account) as steps
        from due as d
        inner join accounts as a on d.account = a.account
        cross join lateral spendable(d.account, p_tick.as_of) as s
        where d.remaining > 0
    ),

    moved as (
        update accounts as a
        set sequence = a.sequence + l.steps + l.fell::integer, level = l.level
        from lost as l
        where a.account = l.account and l.step = l.steps
    ),

    rows as (
        insert into journal (
            account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
            balance_before, balance_after, as_of, source_partition, source_offset, details
        )
        select
            l.account, l.sequence + l.step, p_tick.request_id, p_tick.fingerprint, false, p_tick.worker, 'expired',
            -- It moves no balance: at as_of the lot had ended already.
            -l.remaining, l.lot, l.expires_at, l.spendable, l.spendable, p_tick.as_of,
            p_tick.source_partition, p_tick.source_offset, null
        from lost as l
        union all
        -- What settle does for one account.
        select
            l.account, l.sequence + l.steps + 1, p_tick.request_id, p_tick.fingerprint, false, p_tick.worker,
            case l.level when 1 then 'low' else 'exhausted' end, 0, null, null, l.spendable, l.spendable, p_tick.as_of,
            p_tick.source_partition, p_tick.source_offset,
            case l.level when 1 then jsonb_build_object('threshold', p_low) end
        from lost as l
        where l.step = l.steps and l.fell
    )

    select count(*), coalesce(sum(due.remaining), 0) into lots, credits from due;
end;
$$;

-- Applies the caps that are due by the horizon, of all accounts that the step has something to do for: before their
-- lots are closed or announced, those that a further step would come to included.
create or replace function cut_started(p_tick request, p_accounts bigint[], p_horizon timestamptz, p_low integer)
returns void
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    due bigint;
    cause request := p_tick;
begin
    for due in
        select distinct l.account
        from lots as l
        where l.account = any(p_accounts) and l.cap_pending and l.granted_at <= p_horizon
        order by l.account
    loop
        cause.account := due;
        perform from apply_pending_caps(cause, p_horizon, p_low);
    end loop;
end;
$$;

-- Announces lots that end soon, once for each end that they come to have: a row that moves nothing. An empty lot has
-- nothing to lose and is passed, until a reversal fills it (reverse.sql); what an erased account lost, nobody is told.
-- Whoever is told what a lot holds knows of a balance that had risen by date, so that its fall is told too.
create or replace function announce(
    p_tick request, p_lots due_lots, p_horizon timestamptz, p_soon interval, p_low integer
)
returns void
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    with due as (
        select l.account, l.lot, l.expires_at, l.remaining, l.remaining > 0 and a.erased_at is null as is_told
        from unnest(p_lots.accounts, p_lots.lots) as d (account, lot)
        cross join lateral (
            select x.* from lots as x where x.account = d.account and x.lot = d.lot
            offset 0 -- by key, as above
        ) as l
        inner join accounts as a on l.account = a.account
        where
            l.open and not l.warned
            and l.granted_at <= p_horizon and l.expires_at > p_horizon and l.expires_at <= p_horizon + p_soon
    ),

    warned as (
        update lots as l
        set
            warned = true,
            announced_ends = case when d.is_told then l.announced_ends || d.expires_at else l.announced_ends end
        from due as d
        where l.account = d.account and l.lot = d.lot
    ),

    told as (
        select
            d.*, a.sequence, s.credits as spendable,
            row_number() over (partition by d.account order by d.expires_at, d.lot) as step,
            count(*) over (partition by d.account) as steps
        from due as d
        inner join accounts as a on d.account = a.account
        cross join lateral spendable(d.account, p_tick.as_of) as s
        where d.is_told
    ),

    counted as (
        update accounts as a
        set sequence = a.sequence + t.steps, level = least(a.level, balance_level(t.spendable, p_low))
        from told as t
        where a.account = t.account and t.step = t.steps
    )

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
        balance_before, balance_after, as_of, source_partition, source_offset, details
    )
    select
        t.account, t.sequence + t.step, p_tick.request_id, p_tick.fingerprint, false, p_tick.worker, 'expiring_soon', 0,
        t.lot, t.expires_at, t.spendable, t.spendable, p_tick.as_of, p_tick.source_partition, p_tick.source_offset,
        jsonb_build_object('credits', t.remaining)
    from told as t;
end;
$$;
