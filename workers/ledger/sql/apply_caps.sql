-- Applies the caps of lots that were not spendable yet when they opened and have come to their date (rule 5).
--
-- Each is applied as of its own date, to what the lots held then: whatever comes first at that date or later, a request
-- of the account or a tick, finds nothing decided in between. So the amounts do not depend on which it is, nor on when
-- a tick runs. A lot that has ended since was spendable then, and may be cut.
create or replace function apply_pending_caps(p_cause request, p_until timestamptz, p_low integer)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    started record;
    is_cut boolean := false;
    before bigint := available(p_cause.account, p_cause.as_of);
begin
    for started in
        -- Of lots of one subscription and date, the newest says what its cap is.
        select distinct on (l.granted_at, l.subscription_id) l.granted_at, l.subscription_id, l.balance_cap
        from lots as l
        where l.account = p_cause.account and l.cap_pending and l.granted_at <= p_until
        order by l.granted_at, l.subscription_id, l.lot desc
    loop
        return query select * from cut_to_cap(
            p_cause, started.subscription_id, started.balance_cap, started.granted_at, started.granted_at
        );
        is_cut := is_cut or found;
    end loop;
    update lots as l set cap_pending = false
    where l.account = p_cause.account and l.cap_pending and l.granted_at <= p_until;

    if is_cut then
        return query select * from settle(p_cause, p_low, before);
    end if;
end;
$$;

-- The same ahead of what requests ask for, in the order given: at the time of each.
create or replace function apply_caps(p_requests request[], p_low integer)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    for i in 1 .. cardinality(p_requests) loop
        return query select * from apply_pending_caps(p_requests[i], (p_requests[i]).as_of, p_low);
    end loop;
end;
$$;

-- When those lots of some accounts have come to their date, up to an instant, whose caps were not applied yet, in that
-- order: mostly nothing.
create or replace function caps_due(p_accounts bigint[], p_until timestamptz)
returns table (account bigint, granted_at timestamptz)
language plpgsql stable
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    select l.account, l.granted_at
    from lots as l
    where l.account = any(p_accounts) and l.cap_pending and l.granted_at <= p_until
    order by l.granted_at;
end;
$$;
