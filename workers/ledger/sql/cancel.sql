-- Decides cancels, in the order given: clamps the lots of each subscription to its end.
--
-- A cancel is always accepted, also before the subscription is known: it then waits for its grants. Of several cancels
-- the earliest end holds. It moves no credit: a tick books what a clamped lot loses. Its row lists the lots that it
-- clamped, with their ends, so that whoever reads the events alone knows them. A lot that had ended by itself keeps its
-- end, also where the cancel's is before it: whether a tick has booked that lot yet changes no answer.
--
-- Codes, in order of precedence: account_erased, cancelled
create or replace function cancel(
    p_requests request[], p_subscription_ids text[], p_effective_ats timestamptz[], p_low integer
)
returns setof journal
language plpgsql volatile
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    r request;
    before bigint;
    until timestamptz;
    ends jsonb;
begin
    for i in 1 .. cardinality(p_requests) loop
        r := p_requests[i];
        if is_erased(r.account) then
            return next book(r, 'account_erased', p_details => jsonb_build_object(
                'subscription_id', p_subscription_ids[i], 'effective_at', p_effective_ats[i]
            ));
            continue;
        end if;

        before := available(r.account, r.as_of);
        insert into subscriptions as s (account, subscription_id, ends_at)
        values (r.account, p_subscription_ids[i], p_effective_ats[i])
        on conflict (account, subscription_id) do update set ends_at = least(s.ends_at, excluded.ends_at)
        returning s.ends_at into until;

        with clamped as (
            update lots as l
            set
                expires_at = greatest(l.granted_at, until),
                -- It is announced too, unless it was before: by a cancel that was taken back.
                warned = greatest(l.granted_at, until) = any(l.announced_ends)
            where
                l.account = r.account and l.subscription_id = p_subscription_ids[i] and l.open
                and l.expires_at > greatest(l.granted_at, until, r.as_of)
            returning l.lot, l.expires_at
        )

        select coalesce(jsonb_agg(lot_end(c.lot, c.expires_at) order by c.lot), '[]') into ends from clamped as c;

        return next book(r, 'cancelled', p_before => before, p_details => jsonb_build_object(
            'subscription_id', p_subscription_ids[i], 'effective_at', until, 'lot_ends', ends
        ));
        return query select * from settle(r, p_low, before);
    end loop;
end;
$$;

-- What a row tells of a lot whose end it moved.
create or replace function lot_end(p_lot integer, p_expires_at timestamptz)
returns jsonb
language sql stable
as $$
    select jsonb_build_object('lot', p_lot, 'expires_at', p_expires_at);
$$;

create or replace function is_erased(p_account bigint)
returns boolean
language sql stable
as $$
    select a.erased_at is not null from accounts as a where a.account = p_account;
$$;
