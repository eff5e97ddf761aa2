-- What is asked of an account's lots, without those that it has closed: their number grows for ever. Its open lots are
-- what it can spend. Its lots by the end of their periods tell which allotments a period may be (lots_of_period):
-- mostly the last one. Neither mentions what a debit changes, so that a debit's row stays in its page.
--
-- While they are built nothing is booked: 0.6 s for 300,000 lots. In books so large that this is too long they are
-- built before `inmail migrate`, beside the bookings: by the two statements below, each by itself, with `create index
-- concurrently` in place of `create index if not exists`. This then finds them. What could not be finished is built
-- again.
do $$
declare
    unfinished text;
begin
    for unfinished in
        select c.relname
        from pg_index as i
        inner join pg_class as c on i.indexrelid = c.oid
        where
            i.indrelid = 'lots'::regclass and not i.indisvalid and c.relname in ('lots_open', 'lots_by_end_of_period')
    loop
        execute format('drop index %I', unfinished);
    end loop;
end;
$$;

create index if not exists lots_open on lots (account) where open;

create index if not exists lots_by_end_of_period on lots (
    account,
    subscription_id,
    (coalesce(period_end, (period_start at time zone 'UTC' + interval '1 month') at time zone 'UTC')),
    period_start
)
where subscription_id is not null and not freed and tops_up is null;
