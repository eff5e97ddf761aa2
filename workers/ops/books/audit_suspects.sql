-- What the ledger has of the accounts on which something may be wrong: once in tables of their own, with statistics,
-- since each check of the whole audit joins it in another way.

analyze suspects;

create temp table suspect_rows as
select x.* -- noqa: AM04
from journal as x
inner join suspects as s on x.account = s.account;

create temp table suspect_lots as
select x.* -- noqa: AM04
from lots as x
inner join suspects as s on x.account = s.account;

create temp table suspect_accounts as
select x.* -- noqa: AM04
from accounts as x
inner join suspects as s on x.account = s.account;

create temp table suspect_subscriptions as
select x.* -- noqa: AM04
from subscriptions as x
inner join suspects as s on x.account = s.account;

create temp table suspect_ticks as
select t.* -- noqa: AM04
from (
    select distinct
        source_partition,
        request_id
    from suspect_rows
    where worker = 'expiry'
) as j
inner join ticks as t on j.source_partition = t.partition and j.request_id = t.request_id;

analyze suspect_rows;
analyze suspect_lots;
analyze suspect_accounts;
analyze suspect_subscriptions;
analyze suspect_ticks;
