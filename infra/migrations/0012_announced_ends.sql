-- A lot's coming end is announced once for each end: a cancel makes another one, a take-back brings the old one back.
-- `warned` alone could not tell them apart. This takes the lots for itself first, so that no tick books anything until
-- it is done; it reads the whole journal twice.
alter table lots add column announced_ends timestamptz[] not null default '{}';

comment on column lots.announced_ends is 'Ends of it that were announced, as journal rows tell: never one twice.';
comment on column lots.warned is
'Nothing is to be announced for now: its present end was, or it was empty when that was due.';

update lots as l
set announced_ends = told.ends, warned = l.warned and l.expires_at = any(told.ends)
from (
    select
        j.account,
        j.lot,
        array_agg(distinct j.lot_expires_at) as ends
    from journal as j
    where j.code = 'expiring_soon'
    group by j.account, j.lot
) as told
where l.account = told.account and l.lot = told.lot;

-- Who was empty when that was due, and is not now, is announced by the next tick.
update lots as l set warned = false
where l.open and l.warned and l.remaining > 0 and l.expires_at <> all(l.announced_ends);

-- What rows said before this, and the audit does not hold against them (audit_rows.sql). An account's rows up to here:
-- - of expiry told the balance as if their lots had lived until then: 8 to 4, where 4 could be spent before and after;
-- - could announce one end again, once a cancel between had been taken back.
-- Rows are never edited, and are published again byte for byte: what they meant is noted, their numbers are not mended.
create table earlier_rows (
    account bigint primary key,
    sequence bigint not null
);

comment on table earlier_rows is
'Up to which row an account''s expiries and announcements were written in the meaning they had before migration 0012.';

insert into earlier_rows (account, sequence)
select
    j.account,
    max(j.sequence) as sequence
from journal as j
where j.code in ('expired', 'expiring_soon')
group by j.account;

-- It takes the balance before the request, too.
drop function if exists settle(request, integer);
drop function if exists announce(request, due_lots, timestamptz, interval);
