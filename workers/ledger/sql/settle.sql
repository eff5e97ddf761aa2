-- Compares what an account can spend with what its holder was last told, and books a notice if it has fallen to a
-- lower level: `low`, or `exhausted`. So there is one notice a crossing, whatever made the balance fall.
--
-- p_before is what could be spent before this request: a balance that had risen by date, while nothing ran, counts as
-- seen, so that who falls from it is told. Of an erased account nobody is left to tell.
create or replace function settle(p_request request, p_low integer, p_before bigint)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    level_now smallint := balance_level(available(p_request.account, p_request.as_of), p_low);
    level_told smallint;
    erased boolean;
begin
    select a.level, a.erased_at is not null into level_told, erased
    from accounts as a where a.account = p_request.account;
    if level_now <> level_told then
        update accounts as a set level = level_now where a.account = p_request.account;
    end if;
    if level_now > least(level_told, balance_level(p_before, p_low)) and not erased then
        return next book(
            p_request, case level_now when 1 then 'low' else 'exhausted' end, p_is_answer => false,
            p_details => case level_now when 1 then jsonb_build_object('threshold', p_low) end
        );
    end if;
end;
$$;

-- 0 enough, 1 low, 2 none.
create or replace function balance_level(p_balance bigint, p_low integer)
returns smallint
language sql immutable
as $$
    select (case when p_balance = 0 then 2 when p_balance <= p_low then 1 else 0 end)::smallint;
$$;
