-- Opens the lots of allotments, in the order given: that of their dates. The arrays are parallel: a request and its
-- period are repeated for each lot, and the lots of one account are of one request (open_lots).
--
-- A lot lives from its period's start, late or early event alike, and without rollover to its end. One that tops up
-- another begins with that, and ends with it too where that counts: of a month that was withdrawn nothing does, and its
-- end is none for what is given in its place.
create or replace function open_allotments(
    p_requests request[], p_periods told_period[], p_openings opening[], p_validity interval, p_first_is_answer boolean
)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    terms lot_terms[];
    ends timestamptz[];
    tops_up integer[];
begin
    select
        array_agg(row(
            'subscription', null, o.subscription_id, o.plan, o.starts, o.credits, o.priority, o.starts,
            coalesce(
                topped.full_expires_at, least(o.starts + p_validity, case when not o.rollover then o.ends end)
            ),
            o.on_change, o.credit_back, o.balance_cap, null, null
        )::lot_terms order by o.position),
        array_agg(o.ends order by o.position),
        array_agg(o.tops_up order by o.position)
    into terms, ends, tops_up
    from unnest(p_requests, p_periods, p_openings) with ordinality as o (
        account, request_id, fingerprint, worker, as_of, source_partition, source_offset,
        subscription_id, plan, period_start, period_end, annual, anchor_day, is_change, plan_credits, rollover,
        priority, on_change, credit_back, balance_cap,
        starts, ends, credits, tops_up, position
    )
    left join lots as topped
        on o.account = topped.account and o.tops_up = topped.lot and o.credits < o.plan_credits;

    return query select * from open_lots(p_requests, terms, ends, tops_up, p_first_is_answer);
end;
$$;

-- The same with all that a grant brings about: caps, and notices. p_next_changes are where the next change to another
-- plan begins, of each.
create or replace function grant_allotments(
    p_requests request[], p_periods told_period[], p_openings opening[], p_next_changes timestamptz[],
    p_validity interval, p_low integer
)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    requests request[] := array(select distinct r from unnest(p_requests) as r);
    befores bigint[] := available_before(requests);
    capped integer;
begin
    return query select * from open_allotments(p_requests, p_periods, p_openings, p_validity, true);

    for capped in
        select min(o.position)
        from unnest(p_requests, p_periods, p_next_changes) with ordinality as o (
            account, request_id, fingerprint, worker, as_of, source_partition, source_offset,
            subscription_id, plan, period_start, period_end, annual, anchor_day, is_change, credits, rollover,
            priority, on_change, credit_back, balance_cap,
            next_change, position
        )
        where
            o.next_change <= o.as_of
            or exists (
                select from lots as l
                where
                    l.account = o.account and l.subscription_id = o.subscription_id and l.open
                    and l.balance_cap is not null
            )
        group by o.account
    loop
        return query select * from cut_after_grant(p_requests[capped], p_periods[capped], p_next_changes[capped]);
    end loop;

    return query select * from settle(requests, p_low, befores);
end;
$$;
