-- What accounts have after their newest journal row, for the topic of balances: one row for each lot that holds credits
-- at the time of that row or later, in burn-down order, or one without a lot. An account without a row is left out.
--
-- The statement reads one snapshot, so that the sequence and the lots of an account are of one moment.
create or replace function newest_balances(p_account_ids text[])
returns table (
    account_id text, partition integer, sequence bigint, as_of timestamptz, erased_at timestamptz,
    lot integer, remaining integer, granted_at timestamptz, expires_at timestamptz
)
language plpgsql stable
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    select
        a.account_id, a.partition, a.sequence, j.as_of, a.erased_at,
        l.lot, l.remaining, l.granted_at, l.expires_at
    from accounts as a
    inner join journal as j on a.account = j.account and a.sequence = j.sequence
    left join lots as l
        on
            a.account = l.account and l.remaining > 0 and l.granted_at < l.expires_at and j.as_of < l.expires_at
    where a.account_id = any(p_account_ids)
    order by a.account, l.priority, l.expires_at, l.lot;
end;
$$;
