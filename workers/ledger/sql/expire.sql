-- Books the end of lots that ended up to p_horizon, oldest first, at most p_limit of them: one journal row a lot that
-- still held credits, and the tick's answer, which it returns. A lot spent to nothing is closed without one, since
-- nothing moved.
--
-- Availability is a predicate, so nothing depends on when this runs: it turns what is already lost into a line.
-- Locks accounts in the order of their number, as open_accounts does, and reads the lots again once it holds them.
create or replace function expire(
    p_request_id uuid,
    p_fingerprint bigint,
    p_as_of timestamptz,
    p_horizon timestamptz,
    p_limit integer,
    p_offset bigint,
    p_partition integer
)
returns ticks
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    accounts_ bigint[];
    lots_ integer[];
    candidates integer;
    answer ticks;
begin
    select array_agg(due.account), array_agg(due.lot)
    into accounts_, lots_
    from (
        select l.account, l.lot
        from lots as l
        where l.partition = p_partition and l.open and l.expires_at <= p_horizon
        order by l.expires_at, l.account, l.lot
        limit p_limit
    ) as due;
    candidates := coalesce(cardinality(lots_), 0);

    perform from accounts as a
    where a.account = any(accounts_)
    order by a.account
    for no key update;

    -- Again, now that nobody else can touch them: some may have been booked while this waited.
    select array_agg(l.account), array_agg(l.lot)
    into accounts_, lots_
    from unnest(accounts_, lots_) as d (account, lot)
    cross join lateral (
        select x.* from lots as x where x.account = d.account and x.lot = d.lot
        offset 0 -- by key: the index of open lots would be read whole for each
    ) as l
    where l.open and l.expires_at <= p_horizon;

    with due as (
        select
            l.account, l.lot, l.expires_at, l.remaining,
            row_number() over ordered as step,
            available(l.account, p_as_of) + coalesce(sum(l.remaining) over rest, 0)::integer as balance_after
        from unnest(accounts_, lots_) as d (account, lot)
        inner join lots as l on d.account = l.account and d.lot = l.lot
        where l.remaining > 0
        window
            ordered as (partition by l.account order by l.expires_at, l.lot),
            -- What else this tick takes from the account afterwards still counts in this row's balance.
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
    )

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
        balance_before, balance_after, as_of, source_partition, source_offset
    )
    select
        d.account, a.sequence + d.step, p_request_id, p_fingerprint, false, 'expiry', 'expired',
        -d.remaining, d.lot, d.expires_at, d.balance_after + d.remaining, d.balance_after, p_as_of,
        p_partition, p_offset
    from due as d
    inner join accounts as a on d.account = a.account
    order by d.account, d.step;

    update lots as l
    set remaining = 0, open = false
    from unnest(accounts_, lots_) as d (account, lot)
    where l.account = d.account and l.lot = d.lot;

    insert into ticks (
        partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits, complete
    )
    select
        p_partition, p_request_id, p_fingerprint, 'booked', p_offset, p_as_of, p_horizon,
        coalesce(cardinality(lots_), 0), coalesce(-sum(j.amount), 0), candidates < p_limit
    from journal as j
    where j.worker = 'expiry' and j.source_partition = p_partition and j.source_offset = p_offset
        and j.request_id = p_request_id
    returning * into answer;
    return answer;
end;
$$;
