-- Takes from one subscription's lots what they hold above its cap at an instant, soonest to expire first. They stay
-- open: what is taken back of a send may return to them (rule 5).
create or replace function cut_to_cap(p_request request, p_subscription_id text, p_cap integer, p_at timestamptz)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    excess bigint;
    held record;
begin
    select sum(l.remaining) - p_cap into excess
    from lots as l
    where l.account = p_request.account and l.subscription_id = p_subscription_id
        and l.granted_at <= p_at and p_at < l.expires_at;

    for held in
        select l.lot, l.remaining from lots as l
        where l.account = p_request.account and l.subscription_id = p_subscription_id
            and l.granted_at <= p_at and p_at < l.expires_at and l.remaining > 0
        order by l.expires_at, l.lot
    loop
        exit when excess <= 0;
        return next book(
            p_request, 'cap_forfeited', -least(held.remaining, excess)::integer, held.lot, p_is_answer => false,
            p_details => jsonb_build_object('subscription_id', p_subscription_id, 'cap', p_cap)
        );
        excess := excess - held.remaining;
    end loop;
end;
$$;
