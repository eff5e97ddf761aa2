-- Decides a batch of sends: one journal row for each, in the order given.
--
-- The arrays are parallel and ordered by account, then by input order. The accounts are locked (open_accounts) and
-- no request here has a stored answer. What the batch needs is read in two statements, decided in memory one request
-- after another (each sees what the one before it left), and written in three: the work per send does not grow with
-- the books.
--
-- Codes, in order of precedence:
--   key_conflict          the request id was used before with another body
--   free                  the relationship costs nothing
--   charged               one credit of the first lot in burn-down order: priority, expires_at, lot
--   insufficient_credits  no lot can be spent at as_of
create or replace function debit(
    p_accounts bigint[], p_request_ids uuid[], p_fingerprints bigint[], p_conflicts boolean[],
    p_free boolean[], p_recipient_ids text[], p_relationships text[], p_as_ofs timestamptz[],
    p_offsets bigint[], p_partition integer
)
returns setof journal
language plpgsql volatile
-- A plan made while the tables were small would scan them for ever: only index look-ups are right here.
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    accounts_ bigint[];           -- the distinct accounts, in order, each with
    sequences bigint[];           -- its newest journal row
    a integer := 0;               -- where we are among them

    lot_accounts bigint[];        -- the lots of all of them, by account and burn-down order
    lot_numbers integer[];
    lot_remaining integer[]; lot_remaining_before integer[];
    lot_from timestamptz[]; lot_until timestamptz[];
    first_lot integer := 1;       -- the current account's lots: [first_lot, end_lot)
    end_lot integer := 1;
    pick integer;

    as_of timestamptz; balance integer; code text; next_at timestamptz;
    o_sequences bigint[]; o_codes text[]; o_lots integer[]; o_lot_until timestamptz[]; o_balances integer[];
    o_next_allotments timestamptz[];
begin
    select array_agg(x.account order by x.account), array_agg(x.sequence order by x.account)
    into accounts_, sequences
    from accounts as x where x.account = any(p_accounts);

    select array_agg(l.account), array_agg(l.lot), array_agg(l.remaining), array_agg(l.granted_at), array_agg(l.expires_at)
    into lot_accounts, lot_numbers, lot_remaining, lot_from, lot_until
    from (
        select x.* from lots as x
        where x.account = any(accounts_) and x.remaining > 0
        order by x.account, x.priority, x.expires_at, x.lot
    ) as l;
    lot_remaining_before := lot_remaining;

    for i in 1 .. cardinality(p_accounts) loop
        if a = 0 or accounts_[a] <> p_accounts[i] then
            a := a + 1;
            first_lot := end_lot;
            while lot_accounts[end_lot] = p_accounts[i] loop
                end_lot := end_lot + 1;
            end loop;
        end if;

        as_of := p_as_ofs[i];
        balance := 0;
        pick := null;
        next_at := null;
        for j in first_lot .. end_lot - 1 loop
            if lot_remaining[j] > 0 and lot_from[j] <= as_of and as_of < lot_until[j] then
                balance := balance + lot_remaining[j];
                pick := coalesce(pick, j);
            end if;
        end loop;

        if p_conflicts[i] then
            code := 'key_conflict';
        elsif p_free[i] then
            code := 'free';
        elsif pick is not null then
            code := 'charged';
            lot_remaining[pick] := lot_remaining[pick] - 1;
        else
            code := 'insufficient_credits';
            next_at := next_allotment(p_accounts[i], as_of);
        end if;

        if code <> 'charged' then
            pick := null;
        end if;
        sequences[a] := sequences[a] + 1;
        o_sequences[i] := sequences[a];
        o_codes[i] := code;
        o_balances[i] := balance;
        o_lots[i] := lot_numbers[pick];
        o_lot_until[i] := lot_until[pick];
        o_next_allotments[i] := next_at;
    end loop;

    update accounts as x
    set sequence = d.sequence
    from unnest(accounts_, sequences) as d (account, sequence)
    where x.account = d.account;

    update lots as l
    set remaining = d.remaining
    from unnest(lot_accounts, lot_numbers, lot_remaining, lot_remaining_before) as d (account, lot, remaining, before)
    where l.account = d.account and l.lot = d.lot and d.remaining < d.before;

    return query
    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
        balance_before, balance_after, as_of, source_partition, source_offset,
        recipient_id, relationship, next_allotment_at
    )
    select
        d.account, d.sequence, d.request_id, d.fingerprint, true, 'send', d.code,
        case when d.lot is null then 0 else -1 end, d.lot, d.lot_until,
        d.balance, case when d.lot is null then d.balance else d.balance - 1 end, d.as_of, p_partition, d.source_offset,
        d.recipient_id, d.relationship, d.next_allotment_at
    from unnest(
        p_accounts, o_sequences, p_request_ids, p_fingerprints, o_codes, o_lots, o_lot_until, o_balances, p_as_ofs,
        p_offsets, p_recipient_ids, p_relationships, o_next_allotments
    ) as d (
        account, sequence, request_id, fingerprint, code, lot, lot_until, balance, as_of,
        source_offset, recipient_id, relationship, next_allotment_at
    )
    returning *;
end;
$$;
