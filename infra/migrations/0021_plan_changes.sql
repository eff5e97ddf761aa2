-- Where each plan change of a subscription begins: events that are read late are held against all of them, and not only
-- against the latest.
alter table subscriptions add column changes timestamptz[] not null default '{}';

comment on column subscriptions.changes is
'Where its plan changes begin, in the order in which they were read. Of those before this column was there only the
latest is known: changed_at.';

-- A parameter of each has another name and meaning, which `create or replace` refuses.
drop function if exists change_plan(request, told_period, period[], interval, timestamptz);
drop function if exists close_old_lots(request, told_period, timestamptz);
drop function if exists periods_of(told_period, smallint, timestamptz);
