-- Decides a batch of sends: one journal row for each, in the order given, and a notice after one that leaves little.
--
-- The arrays are parallel and ordered by account, then by input order. The accounts are locked (lock_accounts) and no
-- request here has a stored answer. What the batch needs is read first, decided in memory one request after another
-- (each sees what the one before it left), and written at the end: the work per send does not grow with the books.
--
-- Codes, in order of precedence:
--   key_conflict          the request id was used before with another body
--   account_erased        the account was erased
--   recipient_is_sender   a send to oneself
--   free                  the relationship costs nothing
--   rate_limited          over a limit of the catalogue: account's, seat's, or to the same recipient (limits.sql)
--   charged               one credit of the first lot in burn-down order: priority, expires_at, lot
--   balance_not_current   the same, and p_waited_for, a consumer group, had unread what comes before: not final
--   insufficient_credits  no lot can be spent at as_of
create or replace function debit_sends(
    p_accounts bigint[], p_request_ids uuid[], p_fingerprints bigint[], p_conflicts boolean[],
    p_to_self boolean[], p_free boolean[], p_recipient_ids text[], p_relationships text[], p_sender_ids text[],
    p_as_ofs timestamptz[], p_partitions integer[], p_offsets bigint[], p_limits send_limits,
    p_low integer, p_waited_for text
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
    levels smallint[];            -- what its holder was last told (settle.sql)
    erased boolean[];
    since timestamptz[];          -- two days' counts of what it paid for: no less than a limit counts
    today integer[]; yesterday integer[];
    tightest integer := least(nullif(p_limits.daily, 0), nullif(p_limits.seat, 0));
    suspect boolean[];            -- the requests whose recipient may have had a paid send too lately
    a integer := 0; first_request integer; refused integer;  -- where we are; its first request, its last one refused

    lot_accounts bigint[];        -- the lots of all of them, by account and burn-down order
    lot_numbers integer[]; lot_remaining integer[]; lot_remaining_before integer[];
    lot_from timestamptz[]; lot_until timestamptz[];
    first_lot integer := 1; end_lot integer := 1; pick integer;  -- the current account's lots: [first_lot, end_lot)

    as_of timestamptz; balance bigint; level smallint; code text; hit record;
    o_sequences bigint[]; o_codes text[]; o_balances bigint[];
    -- Not every request has one of these. They are filled first: an array that begins at its second element would be
    -- unnested as if that were the first.
    o_lots integer[] := array_fill(null::integer, array[cardinality(p_accounts)]);
    o_lot_until timestamptz[] := array_fill(null::timestamptz, array[cardinality(p_accounts)]);
    o_next_allotments timestamptz[] := o_lot_until;
    o_details jsonb[] := array_fill(null::jsonb, array[cardinality(p_accounts)]);
    notices integer[]; notice_levels smallint[];  -- the requests that a notice follows
begin
    select
        array_agg(x.account), array_agg(x.sequence), array_agg(x.level), array_agg(x.erased_at is not null),
        array_agg(x.paid_from), array_agg(x.paid), array_agg(x.paid_before)
    into accounts_, sequences, levels, erased, since, today, yesterday
    from (select own.* from accounts as own where own.account = any(p_accounts) order by own.account) as x;

    select
        array_agg(l.account), array_agg(l.lot), array_agg(l.remaining), array_agg(l.granted_at), array_agg(l.expires_at)
    into lot_accounts, lot_numbers, lot_remaining, lot_from, lot_until
    from (
        select x.* from lots as x
        where x.account = any(accounts_) and x.open and x.remaining > 0
        order by x.account, x.priority, x.expires_at, x.lot
    ) as l;
    lot_remaining_before := lot_remaining;

    if p_limits.cooldown > interval '0' then
        suspect := suspects(p_accounts, p_recipient_ids, p_as_ofs, p_limits.cooldown);
    end if;

    for i in 1 .. cardinality(p_accounts) loop
        if a = 0 or accounts_[a] <> p_accounts[i] then
            a := a + 1;
            first_request := i;
            refused := null;
            first_lot := end_lot;
            while lot_accounts[end_lot] = p_accounts[i] loop
                end_lot := end_lot + 1;
            end loop;
        end if;

        as_of := p_as_ofs[i];
        balance := 0;
        pick := null;
        for j in first_lot .. end_lot - 1 loop
            if lot_remaining[j] > 0 and lot_from[j] <= as_of and as_of < lot_until[j] then
                balance := balance + lot_remaining[j];
                pick := coalesce(pick, j);
            end if;
        end loop;

        code := case
            when p_conflicts[i] then 'key_conflict'
            when erased[a] then 'account_erased'
            when p_to_self[i] then 'recipient_is_sender'
            when p_free[i] then 'free'
            when pick is not null then 'charged'
            else case when p_waited_for is null then 'insufficient_credits' else 'balance_not_current' end
        end;
        if code in ('charged', 'balance_not_current', 'insufficient_credits') then
            if as_of >= since[a] + interval '24 hours' then
                yesterday[a] := case when as_of < since[a] + interval '48 hours' then today[a] else 0 end;
                since[a] := case yesterday[a] when 0 then as_of else since[a] + interval '24 hours' end;
                today[a] := 0;
            end if;
            -- A lane that is behind another one's time may not go by counts that were made after it.
            if today[a] + yesterday[a] >= tightest or as_of < since[a] or suspect[i] then
                select * into hit from limit_hit(
                    p_limits, p_accounts[i], as_of, p_sender_ids[i], p_recipient_ids[i], o_codes[first_request : i - 1],
                    p_as_ofs[first_request : i - 1], p_sender_ids[first_request : i - 1],
                    p_recipient_ids[first_request : i - 1]
                );
                if hit.what is not null then
                    code := 'rate_limited';
                    o_details[i] := jsonb_build_object('limit', hit.what, 'retry_at', hit.retry_at);
                end if;
            end if;
        end if;

        sequences[a] := sequences[a] + 1;
        o_sequences[i] := sequences[a];
        o_codes[i] := code;
        o_balances[i] := balance;
        if code = 'charged' then
            lot_remaining[pick] := lot_remaining[pick] - 1;
            today[a] := today[a] + 1;
            o_lots[i] := lot_numbers[pick];
            o_lot_until[i] := lot_until[pick];
        elsif code = 'balance_not_current' then
            o_details[i] := not_current(p_waited_for);
        elsif code = 'insufficient_credits' then
            o_next_allotments[i] := known_or_next_allotment(
                p_accounts[i], as_of, p_as_ofs[refused], o_next_allotments[refused]
            );
            refused := i;
        end if;

        if code in ('charged', 'insufficient_credits') then
            level := least(levels[a], balance_level(balance, p_low));
            levels[a] := balance_level(balance - (code = 'charged')::integer, p_low);
            if levels[a] > level then
                notices := notices || i;
                notice_levels := notice_levels || levels[a];
                sequences[a] := sequences[a] + 1;
            end if;
        end if;
    end loop;

    update accounts as x
    set sequence = d.sequence, level = d.level, paid_from = d.paid_from, paid = d.paid, paid_before = d.paid_before
    from unnest(accounts_, sequences, levels, since, today, yesterday) as d (
        account, sequence, level, paid_from, paid, paid_before
    )
    where x.account = d.account;

    update lots as l
    set remaining = d.remaining
    from unnest(lot_accounts, lot_numbers, lot_remaining, lot_remaining_before) as d (account, lot, remaining, before)
    where l.account = d.account and l.lot = d.lot and d.remaining < d.before;

    return query
    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
        balance_before, balance_after, as_of, source_partition, source_offset,
        recipient_id, relationship, next_allotment_at, details, sender_id
    )
    select
        d.account, d.sequence, d.request_id, d.fingerprint, true, 'send', d.code,
        case when d.lot is null then 0 else -1 end, d.lot, d.lot_until,
        d.balance, case when d.lot is null then d.balance else d.balance - 1 end, d.as_of, d.source_partition,
        d.source_offset, d.recipient_id, d.relationship, d.next_allotment_at, d.details, d.sender_id
    from unnest(
        p_accounts, o_sequences, p_request_ids, p_fingerprints, o_codes, o_lots, o_lot_until, o_balances, p_as_ofs,
        p_partitions, p_offsets, p_recipient_ids, p_relationships, o_next_allotments, o_details, p_sender_ids
    ) as d (
        account, sequence, request_id, fingerprint, code, lot, lot_until, balance, as_of,
        source_partition, source_offset, recipient_id, relationship, next_allotment_at, details, sender_id
    )
    returning *;

    return query
    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount,
        balance_before, balance_after, as_of, source_partition, source_offset, details
    )
    select
        p_accounts[d.i], o_sequences[d.i] + 1, p_request_ids[d.i], p_fingerprints[d.i], false, 'send',
        case d.level when 1 then 'low' else 'exhausted' end, 0, d.balance, d.balance, p_as_ofs[d.i],
        p_partitions[d.i], p_offsets[d.i], case d.level when 1 then jsonb_build_object('threshold', p_low) end
    from (
        select n.i, n.level, o_balances[n.i] - (o_codes[n.i] = 'charged')::integer as balance
        from unnest(notices, notice_levels) as n (i, level)
    ) as d
    returning *;
end;
$$;
