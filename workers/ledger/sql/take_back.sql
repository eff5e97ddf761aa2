-- Decides cancellations taken back, in the order given: lifts all cancels of a subscription that has not ended yet and
-- gives its open lots their full life again. Its row lists these lots, with their ends.
--
-- Codes, in order of precedence:
--   account_erased            the account was erased
--   not_cancelled             there is no cancel to take back
--   subscription_ended        its end has come: it never comes back
--   cancellation_taken_back   it goes on
create or replace function take_back(p_requests request[], p_subscription_ids text[], p_low integer)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    r request;
    code text;
    before bigint;
    ends jsonb;
begin
    for i in 1 .. cardinality(p_requests) loop
        r := p_requests[i];
        select case
            when a.erased_at is not null then 'account_erased'
            when s.ends_at is null then 'not_cancelled'
            when s.ends_at <= r.as_of then 'subscription_ended'
            else 'cancellation_taken_back'
        end
        into code
        from accounts as a
        left join subscriptions as s on s.account = a.account and s.subscription_id = p_subscription_ids[i]
        where a.account = r.account;

        before := available(r.account, r.as_of);
        ends := null;
        if code = 'cancellation_taken_back' then
            update subscriptions as s set ends_at = null
            where s.account = r.account and s.subscription_id = p_subscription_ids[i];
            with lengthened as (
                update lots as l
                set expires_at = l.full_expires_at, warned = l.full_expires_at = any(l.announced_ends)
                where
                    l.account = r.account and l.subscription_id = p_subscription_ids[i] and l.open
                    and l.expires_at < l.full_expires_at
                returning l.lot, l.expires_at
            )

            select coalesce(jsonb_agg(lot_end(b.lot, b.expires_at) order by b.lot), '[]')
            into ends
            from lengthened as b;
        end if;
        return next book(r, code, p_before => before, p_details => jsonb_build_object(
            'subscription_id', p_subscription_ids[i], 'lot_ends', ends
        ));
        if code = 'cancellation_taken_back' then
            return query select * from settle(r, p_low, before);
        end if;
    end loop;
end;
$$;
