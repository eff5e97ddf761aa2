-- Decides gifts, purchases and upward adjustments: credits of no subscription, one lot each, in the order given.
--
-- The accounts are locked (lock_accounts) and no request here has a stored answer. p_selling_plans are the plans that
-- sell credits on their own.
--
-- Codes, in order of precedence:
--   account_erased       the account was erased
--   not_sold_separately  a purchase, and no subscription of the account that runs has a plan now that sells credits
--   granted              a lot is open
create or replace function give(p_requests request[], p_lots lot_terms[], p_selling_plans text[], p_low integer)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    r request;
    code text;
    before bigint;
begin
    for i in 1 .. cardinality(p_requests) loop
        r := p_requests[i];
        select case
            when a.erased_at is not null then 'account_erased'
            when p_lots[i].origin = 'purchase' and not exists (
                select from subscriptions as s
                where
                    s.account = r.account and (s.ends_at is null or s.ends_at > r.as_of)
                    and plan_at(s.account, s.subscription_id, r.as_of) = any(p_selling_plans)
            ) then 'not_sold_separately'
            else 'granted'
        end
        into code
        from accounts as a
        where a.account = r.account;

        if code = 'granted' then
            before := available(r.account, r.as_of);
            return next open_lot(r, p_lots[i], true);
            return query select * from settle(r, p_low, before);
        else
            return next book(r, code, p_details => jsonb_build_object(
                'source_id', p_lots[i].source_id, 'actor', p_lots[i].actor, 'reason', p_lots[i].reason
            ));
        end if;
    end loop;
end;
$$;
