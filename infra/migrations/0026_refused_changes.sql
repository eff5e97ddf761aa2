-- Plan changes that were refused as `plan_unchanged`. One to the plan that was known, since the change before it was
-- read later, left no trace, and the plan between stayed. Nothing waits for this.
--
-- Rows of before are not filled: what was refused only the journal has, and to find it there all of it would have to be
-- read while nothing is booked. It counts only where a change that begins before it is read late, after this: that is
-- decided as by the version before. So is a month beside a change whose credits are not known (change_credits).
alter table subscriptions add column refused_changes told_period[];
alter table subscriptions add column change_credits integer[] not null default '{}';

comment on column subscriptions.refused_changes is
'Plan changes to the plan that was known at their start, as they were told, with the anchor day and the end of the first
month. One whose start is among `changes` is in force: another plan is known before it, and its own period was not
granted. Null: none, or those that a version before has read.';
comment on column subscriptions.change_credits is
'What the plan gives to which each of its plan changes was, in the order of changes. Null, or missing at the end, for
one of before this column was there.';

-- Another result, which `create or replace` refuses.
drop function if exists changes_of(bigint, text);
