-- Tells whether this server holds a partition number: whether its accounts are booked here and its lanes worked here.
create or replace function holds_number(p_number integer)
returns boolean
language sql stable
as $$
    select coalesce(
        (select n.state = 'held' from shard_numbers as n where n.number = p_number),
        (select s.holds_all from shard as s)
    );
$$;
