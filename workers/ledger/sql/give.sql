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
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    alike record;
    befores bigint[];
begin
    -- What gets one code is done at once, in rounds: an account's second request sees what its first one left.
    for alike in
        select
            d.code, array_agg(d.request order by d.position) as requests, array_agg(d.lot order by d.position) as lots
        from (
            select
                i as position, r.request, l.lot,
                row_number() over (partition by (r.request).account order by i) as round,
                case
                    when a.erased_at is not null then 'account_erased'
                    when (l.lot).origin = 'purchase' and not exists (
                        select from subscriptions as s
                        where
                            s.account = a.account and (s.ends_at is null or s.ends_at > (r.request).as_of)
                            and plan_at(s.account, s.subscription_id, (r.request).as_of) = any(p_selling_plans)
                    ) then 'not_sold_separately'
                    else 'granted'
                end as code
            from generate_subscripts(p_requests, 1) as i
            cross join lateral (select p_requests[i] as request) as r
            cross join lateral (select p_lots[i] as lot) as l
            inner join accounts as a on a.account = (r.request).account
        ) as d
        group by d.round, d.code
        order by d.round
    loop
        if alike.code = 'granted' then
            befores := available_before(alike.requests);
            return query select * from open_lots(alike.requests, alike.lots, null, null, true);
            return query select * from settle(alike.requests, p_low, befores);
        else
            for i in 1 .. cardinality(alike.requests) loop
                return next book(alike.requests[i], alike.code, p_details => jsonb_build_object(
                    'source_id', alike.lots[i].source_id, 'actor', alike.lots[i].actor, 'reason', alike.lots[i].reason
                ));
            end loop;
        end if;
    end loop;
end;
$$;
