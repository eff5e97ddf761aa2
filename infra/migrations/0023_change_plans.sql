-- To which plan each plan change of a subscription was: a change that opens no lot, and the period after which is known
-- already, would leave no trace of it.
alter table subscriptions add column change_plans text[] not null default '{}';

comment on column subscriptions.change_plans is
'To which plan each of its plan changes was, in the order of changes. Null, or missing at the end, for one of before
this column was there.';
