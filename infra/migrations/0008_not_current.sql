-- An answer that is not final, and for which lane a lane waits.
--
-- A refusal for want of credit that was decided without credit events that Kafka held before it is balance_not_current:
-- its request id stays free. So outcomes are unique without it, and it is unique for its record. While the index is
-- built nothing is booked.
create unique index journal_final on journal (request_id, account)
where is_answer and code <> 'key_conflict' and code <> 'balance_not_current';
drop index journal_outcomes;
alter index journal_final rename to journal_outcomes;

create unique index journal_not_current on journal (request_id, account, worker, source_partition, source_offset)
where is_answer and code = 'balance_not_current';

alter table journal add constraint not_current_says_why check (
    code <> 'balance_not_current' or (is_answer and details ? 'waited_for' and details ? 'retry_after_seconds')
);

-- Caps that are due before anything else of an account is decided: mostly none.
create index lots_capped on lots (account, granted_at) where cap_pending;

comment on column lots.cap_pending is
'It was not spendable yet when it opened: what comes first at its date or later, a request or a tick, applies the cap.';

alter table lanes
add column waits_for text,
add column waits_since timestamptz;

comment on column lanes.waits_for is 'While `head` is later than `as_of`: the consumer group whose lane it waits for.';
comment on column lanes.waits_since is 'Since when its batch has waited for that lane, by the database''s clock.';
comment on column lanes.awaited is
'Whether this lane runs its ticks in time: others wait a moment for it, so that its lines stand in time order. Not after
it ended in order, nor while a tick takes many steps. Nobody waits so for lanes that give credits: their offset tells.';
