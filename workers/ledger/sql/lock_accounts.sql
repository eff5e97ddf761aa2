-- Locks the accounts of a batch, opening those never seen, and returns their keys and their numbers.
--
-- An account's number (`partition`) follows from its id, whatever partition its first record came in on (p_partitions,
-- parallel to the ids): only books that no lane has ever opened, and that so have no count of partitions, go by that.
--
-- An account whose number another server holds (`holds_number`) is not opened here, and is not returned unless it was
-- before. A request on its account's own partition needs no such question: only a lane that is held is worked.
--
-- Every batch calls this first and once. All locks are taken here, in the order of the account's number, and
-- new accounts are inserted before that in the order of their text: so two batches can wait for each other
-- but never in a circle. What a batch reads after this call was committed before its locks were granted.
create or replace function lock_accounts(p_account_ids text[], p_partitions integer[])
returns table (account_id text, account bigint, partition integer)
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    insert into accounts (account_id, partition)
    select
        unknown.account_id,
        unknown.number
    from (
        select
            wanted.account_id,
            wanted.partition,
            coalesce(
                account_number(wanted.account_id, (select p.partitions from partitioning as p)), wanted.partition
            ) as number
        from (
            select u.account_id collate "C" as account_id, u.partition
            from unnest(p_account_ids, p_partitions) as u (account_id, partition)
        ) as wanted
        where not exists (select from accounts as a where a.account_id = wanted.account_id)
        offset 0 -- so that each number is computed once
    ) as unknown
    where unknown.number = unknown.partition or holds_number(unknown.number)
    order by unknown.account_id
    on conflict do nothing;

    return query
    select a.account_id, a.account, a.partition
    from accounts as a
    where a.account_id = any(p_account_ids)
    order by a.account
    for no key update;
end;
$$;
