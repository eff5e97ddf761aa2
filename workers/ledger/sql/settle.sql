-- Compares what accounts can spend with what their holders were last told, and books a notice for each that has fallen
-- to a lower level: `low`, or `exhausted`. So there is one notice a crossing, whatever made the balance fall.
--
-- An account has one request. p_befores is what could be spent before each: a balance that had risen by date, while
-- nothing ran, counts as seen, so that who falls from it is told. Of an erased account nobody is left to tell.
create or replace function settle(p_requests request[], p_low integer, p_befores bigint[])
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    with changed as (
        select r.*, a.sequence, s.credits as spendable, now.level, fell.fell
        from unnest(p_requests, p_befores) as r (
            account, request_id, fingerprint, worker, as_of, source_partition, source_offset, before
        )
        inner join accounts as a on r.account = a.account
        cross join lateral spendable(r.account, r.as_of) as s
        cross join lateral balance_level(s.credits, p_low) as now (level)
        cross join lateral (
            select now.level > least(a.level, balance_level(r.before, p_low)) and a.erased_at is null as fell
        ) as fell
        where now.level <> a.level or fell.fell
    ),

    noted as (
        update accounts as a
        set level = c.level, sequence = c.sequence + c.fell::integer
        from changed as c
        where a.account = c.account
    )

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount,
        balance_before, balance_after, as_of, source_partition, source_offset, details
    )
    select
        c.account, c.sequence + 1, c.request_id, c.fingerprint, false, c.worker,
        case c.level when 1 then 'low' else 'exhausted' end, 0, c.spendable, c.spendable, c.as_of,
        c.source_partition, c.source_offset, case c.level when 1 then jsonb_build_object('threshold', p_low) end
    from changed as c
    where c.fell
    returning *;
end;
$$;

-- The same for one.
create or replace function settle(p_request request, p_low integer, p_before bigint)
returns setof journal
language sql volatile
as $$
    select * from settle(array[p_request], p_low, array[p_before]);
$$;

-- 0 enough, 1 low, 2 none.
create or replace function balance_level(p_balance bigint, p_low integer)
returns smallint
language sql immutable
as $$
    select (case when p_balance = 0 then 2 when p_balance <= p_low then 1 else 0 end)::smallint;
$$;
