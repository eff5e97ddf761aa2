-- Decides voids, in the order given: billing withdraws what one event granted.
--
-- Codes, in order of precedence:
--   account_erased   the account was erased
--   unknown_grant    no lot was opened by that event
--   grant_ended      none of its lots is left: ended, voided or forfeited
--   voided           its lots are closed, a row each, also of an empty one; their periods stay used
create or replace function void_grant(p_requests request[], p_grant_ids uuid[], p_reasons text[], p_low integer)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    r request;
    told jsonb;
    left_ integer[];
    code text;
    before bigint;
begin
    for i in 1 .. cardinality(p_requests) loop
        r := p_requests[i];
        told := jsonb_build_object('grant_id', p_grant_ids[i], 'reason', p_reasons[i]);
        select array_agg(l.lot order by l.lot) into left_
        from lots as l
        where l.account = r.account and l.open and l.request_id = p_grant_ids[i] and r.as_of < l.expires_at;

        code := case
            when is_erased(r.account) then 'account_erased'
            when left_ is not null then null
            -- Closed lots, whose number grows for ever, are read for a refusal only.
            when exists (select from lots as l where l.account = r.account and l.request_id = p_grant_ids[i])
                then 'grant_ended'
            else 'unknown_grant'
        end;
        if code is not null then
            return next book(r, code, p_details => told);
            continue;
        end if;

        before := available(r.account, r.as_of);
        for k in 1 .. cardinality(left_) loop
            return query select * from close_lot(r, left_[k], 'voided', told, k = 1, true);
        end loop;
        return query select * from settle(r, p_low, before);
    end loop;
end;
$$;
