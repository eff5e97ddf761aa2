-- Takes from one subscription's lots that have started by an instant, and can be spent at another, what they hold above
-- a cap, soonest to expire first. They stay open: what is taken back of a send may return to them (rule 5).
create or replace function cut_to_cap(
    p_request request, p_subscription_id text, p_cap integer, p_at timestamptz, p_started_by timestamptz
)
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
    where l.account = p_request.account and l.subscription_id = p_subscription_id and l.open
        and l.granted_at <= p_started_by and p_at < l.expires_at;

    for held in
        select l.lot, l.remaining from lots as l
        where l.account = p_request.account and l.subscription_id = p_subscription_id and l.open
            and l.granted_at <= p_started_by and p_at < l.expires_at and l.remaining > 0
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

-- What credits that a grant has made spendable do to the others of their subscription (rule 5). The cap is that of the
-- newest lot that has started.
--
-- A grant that is read after plan changes which have begun counts as if each of them had been read after it: before the
-- first, the caps of its own time count for what had started then, and its own lots are forfeited where their plan says
-- so. So neither are the new plan's credits held to the old one's cap, nor is more kept than the new one's allows.
create or replace function cut_after_grant(p_request request, p_period told_period, p_next_change timestamptz)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    change timestamptz := p_next_change;
    until timestamptz;
    cap integer;
begin
    if not exists (
        select from lots as l
        where
            l.account = p_request.account and l.request_id = p_request.request_id and l.open
            and l.granted_at <= p_request.as_of and p_request.as_of < l.expires_at
    ) then
        return;
    end if;

    loop
        until := case when change <= p_request.as_of then change - interval '1 microsecond' else p_request.as_of end;
        select l.balance_cap into cap
        from lots as l
        where
            l.account = p_request.account and l.subscription_id = p_period.subscription_id and l.open
            and l.granted_at <= until and p_request.as_of < l.expires_at
        order by l.granted_at desc, l.lot desc
        limit 1;
        if cap is not null then
            return query select * from cut_to_cap(
                p_request, p_period.subscription_id, cap, p_request.as_of, until
            );
        end if;
        exit when until = p_request.as_of;
        if change = p_next_change then
            return query select * from forfeit_late(p_request, p_period, p_next_change);
        end if;
        change := next_change(p_request.account, p_period.subscription_id, change);
    end loop;
end;
$$;
