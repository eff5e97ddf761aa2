-- Books answers that move nothing and ask no rule of the ledger: today a billing request whose id was used before
-- with another body.
--
-- The arrays are parallel; an account appears at most once and is locked (open_accounts).
create or replace function refuse(
    p_accounts bigint[],
    p_request_ids uuid[],
    p_fingerprints bigint[],
    p_codes text[],
    p_as_ofs timestamptz[],
    p_offsets bigint[],
    p_partition integer
)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    with answered as (
        update accounts as a
        set sequence = a.sequence + 1
        from unnest(p_accounts, p_request_ids, p_fingerprints, p_codes, p_as_ofs, p_offsets) as r (
            account, request_id, fingerprint, code, as_of, source_offset
        )
        where a.account = r.account
        returning a.sequence, r.*, available(r.account, r.as_of) as balance
    )

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount,
        balance_before, balance_after, as_of, source_partition, source_offset
    )
    select
        d.account, d.sequence, d.request_id, d.fingerprint, true, 'billing', d.code, 0,
        d.balance, d.balance, d.as_of, p_partition, d.source_offset
    from answered as d
    returning *;
end;
$$;
