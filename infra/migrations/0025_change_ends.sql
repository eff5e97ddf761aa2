-- Where the period ends that each plan change of a subscription begins: one of less than a month, as a change in the
-- middle of a billing cycle begins, was taken for a month, and with it what the new plan gives afterwards. Nothing
-- waits for this.
alter table subscriptions add column change_ends timestamptz[] not null default '{}';

comment on column subscriptions.change_ends is
'Where the period ends that each of its plan changes begins, in the order of changes. Null, or missing at the end, for
one of before this column was there: a month is taken.';

-- Periods that opened no lot which tells of their plan, as those of a plan of 0 credits: once a later period was noted,
-- the plan between was forgotten. Those of before are.
alter table subscriptions add column told_starts timestamptz[] not null default '{}';
alter table subscriptions add column told_plans text[] not null default '{}';

comment on column subscriptions.told_starts is
'Starts of periods by which its plan became another one, without a plan change, and that no lot tells of.';
comment on column subscriptions.told_plans is 'The plans of these periods, in the order of told_starts.';

-- Whether a lot was withdrawn: a month that was voided counted as given once its end had passed. Lots of before are not
-- filled, which would read the whole journal while nothing is booked: null means that the journal tells
-- (is_withdrawn), which is asked only where such a lot stands beside a month of a plan that was changed to.
alter table lots add column withdrawn boolean;
alter table lots alter column withdrawn set default false;

comment on column lots.withdrawn is
'It was closed before its time: voided or forfeited. Null: a version before may have closed it; the journal tells.';
comment on column lots.period_end is
'End of the period that it is the allotment of; of a lot that tops one up, the same unless nothing of that one counts.';

-- Another result, which `create or replace` refuses; and functions that are called with other parameters from here on.
drop function if exists change_at(bigint, text, timestamptz);
drop function if exists is_of_change(timestamptz, timestamptz, timestamptz);
drop function if exists note_period(request, told_period, smallint);
drop function if exists lots_kept(request, text, period);
drop function if exists credits_lacking(bigint, text, text, integer, period, timestamptz);
