-- The stored outcomes of requests, by request id, whatever body they came with. One that is named twice is returned
-- twice. Called after lock_accounts, so that what another batch committed while this one waited for its locks is seen.
-- Behind them, answers of those ids that are not final (balance_not_current): each stands for its own record only.
create or replace function stored_answers(p_accounts bigint[], p_request_ids uuid[])
returns setof journal
language plpgsql stable
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    select j.*
    from unnest(p_accounts, p_request_ids) as r (account, request_id)
    cross join lateral (
        select x.*
        from journal as x
        -- By request id and account, whatever the planner knows. Rows are compared, since the primary key has no use
        -- for that: it would read a busy account's whole history. The order and the limit say that there is one.
        where (x.request_id, x.account) >= (r.request_id, r.account)
            and (x.request_id, x.account) <= (r.request_id, r.account)
            and x.is_answer and x.code <> 'key_conflict' and x.code <> 'balance_not_current'
        order by x.request_id, x.account
        limit 1
    ) as j;

    -- Mostly there is none of these ids.
    if exists (
        select from journal as x
        where x.request_id = any(p_request_ids) and x.is_answer and x.code = 'balance_not_current'
    ) then
        return query
        select j.*
        from (select distinct u.account, u.request_id from unnest(p_accounts, p_request_ids) as u (account, request_id))
            as r
        cross join lateral (
            select x.*
            from journal as x
            where (x.request_id, x.account) >= (r.request_id, r.account)
                and (x.request_id, x.account) <= (r.request_id, r.account)
                and x.is_answer and x.code = 'balance_not_current'
            offset 0
        ) as j;
    end if;
end;
$$;

-- The stored answers to conflicts: requests whose id has an outcome that another body got.
create or replace function stored_conflicts(p_accounts bigint[], p_request_ids uuid[], p_fingerprints bigint[])
returns setof journal
language plpgsql stable
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    select j.*
    from unnest(p_accounts, p_request_ids, p_fingerprints) as r (account, request_id, fingerprint)
    cross join lateral (
        select x.*
        from journal as x
        where
            (x.request_id, x.account, x.fingerprint) >= (r.request_id, r.account, r.fingerprint)
            and (x.request_id, x.account, x.fingerprint) <= (r.request_id, r.account, r.fingerprint)
            and x.is_answer and x.code = 'key_conflict'
        order by x.request_id, x.account, x.fingerprint
        limit 1
    ) as j;
end;
$$;

-- The rows that a worker booked for records of these places, in the order of the journal.
create or replace function stored_movements(p_worker text, p_partitions integer[], p_offsets bigint[])
returns setof journal
language plpgsql stable
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    select j.*
    from unnest(p_partitions, p_offsets) as r (source_partition, source_offset)
    cross join lateral (
        select x.*
        from journal as x
        where x.source_partition = r.source_partition and x.source_offset = r.source_offset and x.worker = p_worker
        offset 0
    ) as j
    order by j.account, j.sequence;
end;
$$;
