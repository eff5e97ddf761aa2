-- Where each plan change of a subscription begins: events that are read late are held against all of them, and not only
-- against the latest.
alter table subscriptions add column changes timestamptz[] not null default '{}';

comment on column subscriptions.changes is
'Where its plan changes begin, in the order in which they were read. Of those before this column was there only the
latest is known: changed_at.';
