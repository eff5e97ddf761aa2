-- Up to where the ledger was audited, so that the next audit can read what is new. Two new tables, empty at first:
-- nothing waits for this migration.
--
-- The mark is a number for each account, and not a time or a place in the journal: an account's rows are numbered
-- without a gap under its lock, so a row that a transaction commits later always has a later number. By time it would
-- be passed over where a row of a later time was committed first.
create table audits (
    audit bigint generated always as identity primary key,
    kind text not null check (kind in ('whole', 'new')),
    taken_at timestamptz not null,
    whole_at timestamptz not null,
    seconds double precision not null check (seconds >= 0),
    rows_read bigint not null check (rows_read >= 0),
    lanes jsonb not null,
    totals jsonb not null
);

comment on table audits is 'Audits that passed and moved the mark. The newest is where the next one begins.';
comment on column audits.taken_at is 'When its snapshot was taken, by the database''s clock.';
comment on column audits.whole_at is 'When the last whole audit before it, or itself, was taken.';
comment on column audits.lanes is
'Where the lanes stood in its snapshot: what a lane reads later has no lower offset, unless its topic is another or
was set anew (topic_id, topic_since). Not their watermarks: an operator may set a lane''s clock back.';

create table audited_accounts (
    account bigint primary key,
    sequence bigint not null,
    newest_lot integer not null,
    erased_at timestamptz,
    refused_as_of timestamptz,
    lots integer[] not null,
    remaining integer[] not null,
    announced_lots integer[] not null,
    announced_ends timestamptz[] not null,
    subscription_ends jsonb not null
) with (fillfactor = 80);

comment on table audited_accounts is 'Each account as the newest of `audits` found it good.';
comment on column audited_accounts.sequence is 'Its newest row then. Later rows have later numbers.';
comment on column audited_accounts.refused_as_of is 'The latest time at which it was refused for want of credit.';
comment on column audited_accounts.lots is
'Its open lots then, in parallel with the credits in each.';
comment on column audited_accounts.announced_lots is
'A lot for each end of these that was announced, in parallel with these ends.';
comment on column audited_accounts.subscription_ends is 'Ends of its subscriptions that have one, by their ids.';
