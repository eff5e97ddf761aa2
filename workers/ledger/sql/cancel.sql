-- Decides a batch of cancels: clamps the lots of each subscription to its end, one journal row for each.
--
-- The arrays are parallel; an account appears at most once, is locked (open_accounts), and no request here has a
-- stored answer. A cancel is always accepted, also before the subscription is known: it then waits for its grants.
-- Of several cancels the earliest end holds. It moves no credit: a tick books what a clamped lot loses.
--
-- Code: cancelled
create or replace function cancel(
    p_accounts bigint[],
    p_request_ids uuid[],
    p_fingerprints bigint[],
    p_subscription_ids text[],
    p_effective_ats timestamptz[],
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
declare
    balances integer[];
begin
    -- Before any lot is clamped: the rows below tell both balances.
    select array_agg(available(r.account, r.as_of) order by r.position)
    into balances
    from unnest(p_accounts, p_as_ofs) with ordinality as r (account, as_of, position);

    insert into subscriptions as s (account, subscription_id, ends_at)
    select r.account, r.subscription_id, r.effective_at
    from unnest(p_accounts, p_subscription_ids, p_effective_ats) as r (account, subscription_id, effective_at)
    on conflict (account, subscription_id) do update set ends_at = least(s.ends_at, excluded.ends_at);

    update lots as l
    set expires_at = greatest(l.granted_at, r.effective_at) -- a lot of a later period is clamped to nothing
    from unnest(p_accounts, p_subscription_ids, p_effective_ats) as r (account, subscription_id, effective_at)
    where
        l.account = r.account
        and l.subscription_id = r.subscription_id
        -- As a case, so that the index of open lots is not taken for a way to find them.
        and case when l.open then l.expires_at > greatest(l.granted_at, r.effective_at) end;

    return query
    with answered as (
        update accounts as a
        set sequence = a.sequence + 1
        from unnest(
            p_accounts, p_request_ids, p_fingerprints, p_subscription_ids, p_as_ofs, p_offsets, balances
        ) as r (account, request_id, fingerprint, subscription_id, as_of, source_offset, balance)
        where a.account = r.account
        returning a.sequence, r.*
    )

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount,
        balance_before, balance_after, as_of, source_partition, source_offset, details
    )
    select
        d.account, d.sequence, d.request_id, d.fingerprint, true, 'billing', 'cancelled', 0,
        d.balance, available(d.account, d.as_of), d.as_of, p_partition, d.source_offset,
        jsonb_build_object('subscription_id', d.subscription_id, 'effective_at', s.ends_at)
    from answered as d
    inner join subscriptions as s on d.account = s.account and d.subscription_id = s.subscription_id
    returning *;
end;
$$;
