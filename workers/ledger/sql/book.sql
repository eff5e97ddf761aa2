-- Appends one row to the journal and moves what it moves: the account's sequence, the lot's remaining.
--
-- Every change goes through here but debits, grants, notices and expiry, which write many rows at once. The account is
-- locked (lock_accounts). p_before is given where something changed the balance before the row is written.
create or replace function book(
    p_request request,
    p_code text,
    p_amount integer default 0,
    p_lot integer default null,
    p_details jsonb default null,
    p_is_answer boolean default true,
    p_before bigint default null,
    p_reverses bigint default null
)
returns journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    before bigint := coalesce(p_before, available(p_request.account, p_request.as_of));
    number bigint;
    until timestamptz;
    entry journal;
begin
    update accounts as a set sequence = a.sequence + 1
    where a.account = p_request.account
    returning a.sequence into number;

    if p_lot is not null then
        update lots as l set remaining = l.remaining + p_amount
        where l.account = p_request.account and l.lot = p_lot
        returning l.expires_at into until;
    end if;

    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
        balance_before, balance_after, as_of, source_partition, source_offset, details, reverses
    )
    values (
        p_request.account, number, p_request.request_id, p_request.fingerprint, p_is_answer, p_request.worker, p_code,
        p_amount, p_lot, until, before, available(p_request.account, p_request.as_of), p_request.as_of,
        p_request.source_partition, p_request.source_offset, nullif(jsonb_strip_nulls(p_details), '{}'), p_reverses
    )
    returning * into entry;
    return entry;
end;
$$;
