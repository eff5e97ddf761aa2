-- Closes a lot before its time: books what it still held and lets nothing come back to it. It is withdrawn: where
-- months are held against each other, it gave nothing (credits_lacking).
--
-- Returns the row; none for an empty lot, unless p_even_empty asks for one.
create or replace function close_lot(
    p_request request, p_lot integer, p_code text, p_details jsonb, p_is_answer boolean, p_even_empty boolean
)
returns setof journal
language plpgsql volatile
set plan_cache_mode = force_generic_plan
as $$
declare
    held integer;
begin
    select l.remaining into held from lots as l where l.account = p_request.account and l.lot = p_lot;
    if held > 0 or p_even_empty then
        return next book(p_request, p_code, -held, p_lot, p_details, p_is_answer);
    end if;
    update lots as l set open = false, cap_pending = false, withdrawn = true
    where l.account = p_request.account and l.lot = p_lot;
end;
$$;
