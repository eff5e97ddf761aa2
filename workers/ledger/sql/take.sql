-- Decides downward adjustments, in the order given: takes credits by burn-down, a row for each lot touched.
--
-- Codes, in order of precedence:
--   account_erased       the account was erased
--   balance_not_current  more than the account can spend, and p_waited_for, a consumer group, had records unread that
--                        come before, which may give credits back: nothing is taken, and it is not final
--   exceeds_balance      more than the account can spend: nothing is taken
--   adjusted             taken
create or replace function take(
    p_requests request[], p_credits integer[], p_actors text[], p_reasons text[], p_low integer, p_waited_for text
)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    r request;
    told jsonb;
    code text;
    due integer;
    before bigint;
    held record;
begin
    for i in 1 .. cardinality(p_requests) loop
        r := p_requests[i];
        before := available(r.account, r.as_of);
        told := jsonb_build_object('actor', p_actors[i], 'reason', p_reasons[i], 'credits', -p_credits[i]);
        code := case
            when is_erased(r.account) then 'account_erased'
            when p_credits[i] > before then 'exceeds_balance'
        end;
        if code = 'exceeds_balance' and p_waited_for is not null then
            code := 'balance_not_current';
            told := told || not_current(p_waited_for);
        end if;
        if code is not null then
            return next book(r, code, p_details => told);
            continue;
        end if;

        due := p_credits[i];
        for held in
            select l.lot, l.remaining from lots as l
            where
                l.account = r.account and l.open and l.remaining > 0
                and l.granted_at <= r.as_of and r.as_of < l.expires_at
            order by l.priority, l.expires_at, l.lot
        loop
            exit when due <= 0;
            return next book(
                r, 'adjusted', -least(held.remaining, due), held.lot, told, p_is_answer => due = p_credits[i]
            );
            due := due - held.remaining;
        end loop;
        return query select * from settle(r, p_low, before);
    end loop;
end;
$$;
