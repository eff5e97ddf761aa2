-- What the audit of what is new works on, in temporary tables: see `audit_screen.sql`. The new rows come between the
-- two parts, since how they are best read depends on how many there are.

create temp table suspects (account bigint primary key);

create temp table changed as
select
    coalesce(a.account, b.account) as account,
    a.sequence,
    a.newest_lot,
    a.erased_at,
    b.account is null as is_new,
    coalesce(b.sequence, 0) as base_sequence,
    coalesce(b.newest_lot, 0) as base_newest_lot,
    b.erased_at as base_erased_at,
    b.refused_as_of as base_refused_as_of,
    b.subscription_ends as base_ends
from accounts as a
full join audited_accounts as b on a.account = b.account
where a.sequence is distinct from b.sequence;

-- For the look-ups, which may join in no other way.
create index on changed (account);

analyze changed;

-- then

create temp table their_lots as
select l.* -- noqa: AM04
from lots as l
inner join changed as c on l.account = c.account;

create temp table base_lots as
select
    b.account,
    u.lot,
    u.remaining
from changed as c
inner join audited_accounts as b on c.account = b.account
cross join unnest(b.lots, b.remaining) as u (lot, remaining);

create temp table base_ends as
select
    b.account,
    u.lot,
    u.told
from changed as c
inner join audited_accounts as b on c.account = b.account
cross join unnest(b.announced_lots, b.announced_ends) as u (lot, told);

create temp table their_subscriptions as
select s.* -- noqa: AM04
from subscriptions as s
inner join changed as c on s.account = c.account;

create temp table named_ticks as
select t.* -- noqa: AM04
from (
    select distinct
        source_partition,
        request_id
    from fresh
    where worker = 'expiry'
) as j
cross join lateral (
    select x.* from ticks as x
    where x.partition = j.source_partition and x.request_id = j.request_id
    offset 0 -- noqa: AM09
) as t;

analyze fresh;
analyze their_lots;
analyze base_lots;
analyze base_ends;
analyze their_subscriptions;
analyze named_ticks;
