-- Answers billing requests whose id was used before with another body: `key_conflict`.
create or replace function refuse(p_requests request[])
returns setof journal
language sql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
    select booked.*
    from unnest(p_requests) with ordinality as r (
        account, request_id, fingerprint, worker, as_of, source_partition, source_offset, position
    )
    cross join lateral book(
        row(r.account, r.request_id, r.fingerprint, r.worker, r.as_of, r.source_partition, r.source_offset)::request,
        'key_conflict'
    ) as booked
    order by r.position;
$$;
