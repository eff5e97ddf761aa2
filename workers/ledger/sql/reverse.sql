-- Decides reports about sends, in the order given: the credit of a send goes back onto its own lot, at most once.
--
-- p_responded: the recipient answered (else: it could not be delivered). The accounts are locked (lock_accounts) and no
-- request here has a stored answer; p_conflicts marks those whose id was used before with another body.
--
-- Codes, in order of precedence:
--   key_conflict        the request id was used before with another body
--   unknown_send        the account has no send of that id
--   not_charged         the send was free or refused
--   already_reversed    it was taken back before, for whatever cause
--   no_credit_back      the recipient answered, and the lot's plan gives nothing back for that
--   response_too_late   the answer came p_response_life or more after the send
--   reversed            one credit is back on the send's lot
--   lot_ended           that lot has ended: recorded, and the credit is not revived
create or replace function reverse(
    p_requests request[], p_conflicts boolean[], p_responded boolean[], p_send_ids uuid[], p_response_life interval,
    p_low integer
)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    r request;
    sent journal;
    paid lots;
    code text;
    told jsonb;
    before bigint;
begin
    for i in 1 .. cardinality(p_requests) loop
        r := p_requests[i];
        told := jsonb_build_object(
            'send_id', p_send_ids[i], 'cause', case when p_responded[i] then 'responded' else 'undeliverable' end
        );
        select j.* into sent
        from journal as j
        where
            -- By request id and account: as in stored_answers.
            (j.request_id, j.account) >= (p_send_ids[i], r.account)
            and (j.request_id, j.account) <= (p_send_ids[i], r.account) and j.is_answer
            and j.recipient_id is not null and j.code <> 'key_conflict' and j.code <> 'balance_not_current'
        order by j.request_id, j.account
        limit 1;
        select l.* into paid from lots as l where l.account = r.account and l.lot = sent.lot;

        code := case
            when p_conflicts[i] then 'key_conflict'
            when sent.account is null then 'unknown_send'
            when sent.code <> 'charged' then 'not_charged'
            when exists (select from journal as j where j.account = r.account and j.reverses = sent.sequence)
                then 'already_reversed'
            when p_responded[i] and not paid.credit_back then 'no_credit_back'
            when p_responded[i] and r.as_of >= sent.as_of + p_response_life then 'response_too_late'
            when paid.open and r.as_of < paid.expires_at then 'reversed'
            else 'lot_ended'
        end;
        if code = 'reversed' then
            before := available(r.account, r.as_of);
            return next book(r, code, 1, sent.lot, told, p_reverses => sent.sequence);
            -- Nobody was told of its end while it was empty. The next tick does: ticks alone know what is soon.
            update lots as l set warned = false
            where
                l.account = r.account and l.lot = sent.lot and l.remaining = 1 and l.warned
                and l.expires_at <> all(l.announced_ends);
            return query select * from settle(r, p_low, before);
        elsif code = 'lot_ended' then
            before := available(r.account, r.as_of);
            return next book(r, code, 0, sent.lot, told, p_reverses => sent.sequence);
            return query select * from settle(r, p_low, before);
        else
            return next book(r, code, p_details => told);
        end if;
    end loop;
end;
$$;
