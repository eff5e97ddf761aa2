-- What operators did that changes something, and why: kept for good, read with `inmail operations`.
--
-- Operators work as the user they connect as. The workers' role has no right to any of this.

create table operations (
    operation bigint generated always as identity primary key,
    verb text not null,
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    arguments jsonb not null,
    plan jsonb not null,
    started_at timestamptz not null,
    noted_at timestamptz not null,
    ended_at timestamptz,
    status text not null check (status in ('running', 'done', 'stopped', 'failed', 'broken_off')),
    result jsonb not null,
    check ((ended_at is null) = (status = 'running'))
);

comment on column operations.actor is 'Who: as told with --by, or the name of the user at the operator''s machine.';
comment on column operations.plan is 'What was to be done when it began.';
comment on column operations.noted_at is 'When its result was written last.';
comment on column operations.status is
'running, and its verb''s advisory lock not held: it was killed. The next of its verb notes that it was broken off.';
comment on column operations.result is 'What was done up to noted_at.';

create table redriven (
    letter_partition integer not null,
    letter_offset bigint not null,
    letter uuid not null,
    operation bigint not null references operations,
    topic text not null,
    partition integer not null,
    intended_at timestamptz not null,
    sent_offset bigint check (sent_offset >= 0),
    sent_at timestamptz,
    primary key (letter_partition, letter_offset, letter, operation),
    check ((sent_offset is null) = (sent_at is null))
);

comment on table redriven is
'Dead letters whose messages were sent back. A row is written before the message is sent and completed once the broker
has it: one that was left incomplete was sent or not, nobody knows, and is sent again. The guard makes that harmless.';
comment on column redriven.letter is 'The id of its event: a topic that was made anew has other letters at its places.';
comment on column redriven.topic is 'Where the message was sent to: its origin.';

create index redriven_operation on redriven (operation);
