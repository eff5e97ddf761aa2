-- Decides erasures, in the order given: closes all that an account could still spend and refuses what comes later.
--
-- Amounts are kept, and lots that had ended unbooked are left to the tick. Nobody is left to notify: no notice.
--
-- Codes, in order of precedence: account_erased, erased (the answer; then a row for each lot that held credits)
create or replace function erase(p_requests request[])
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    r request;
    held integer;
begin
    for i in 1 .. cardinality(p_requests) loop
        r := p_requests[i];
        if is_erased(r.account) then
            return next book(r, 'account_erased');
            continue;
        end if;
        update accounts as a set erased_at = r.as_of, level = 2 where a.account = r.account;
        return next book(r, 'erased');
        for held in
            select l.lot from lots as l
            where l.account = r.account and l.open and r.as_of < l.expires_at
            order by l.lot
        loop
            return query select * from close_lot(
                r, held, 'voided', jsonb_build_object('reason', 'account_erased'), false, false
            );
        end loop;
    end loop;
end;
$$;
