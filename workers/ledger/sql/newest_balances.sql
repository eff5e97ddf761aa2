-- What accounts have after their newest journal row, for the topic of balances: one row for each of the first lots, at
-- most `p_lots`, that hold credits at the time of that row or later, in burn-down order, or one without a lot. Each has
-- the sums over all such lots. An account without a row is left out.
--
-- The statement reads one snapshot, so that the sequence and the lots of an account are of one moment.
create or replace function newest_balances(p_account_ids text[], p_lots integer)
returns table (
    account_id text, partition integer, sequence bigint, as_of timestamptz, erased_at timestamptz,
    spendable bigint, changes_at timestamptz, lot_count bigint,
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
        t.spendable, t.changes_at, t.lot_count,
        f.lot, f.remaining, f.granted_at, f.expires_at
    from accounts as a
    inner join journal as j on a.account = j.account and a.sequence = j.sequence
    cross join lateral (
        select
            coalesce(sum(l.remaining) filter (where l.granted_at <= j.as_of), 0)::bigint as spendable,
            min(case when l.granted_at <= j.as_of then l.expires_at else l.granted_at end) as changes_at,
            count(*) as lot_count
        from lots as l
        where
            a.account = l.account and l.open and l.remaining > 0
            and l.granted_at < l.expires_at and j.as_of < l.expires_at
    ) as t
    left join lateral (
        select l.lot, l.remaining, l.granted_at, l.expires_at, l.priority
        from lots as l
        where
            a.account = l.account and l.open and l.remaining > 0
            and l.granted_at < l.expires_at and j.as_of < l.expires_at
        order by l.priority, l.expires_at, l.lot
        limit p_lots
    ) as f on true
    where a.account_id = any(p_account_ids)
    order by a.account, f.priority, f.expires_at, f.lot;
end;
$$;
