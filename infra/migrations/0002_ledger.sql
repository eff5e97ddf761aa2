-- The ledger: accounts, their subscriptions, their lots, and one journal.
--
-- Every table is keyed by account first. Text ids stay at the edge (accounts.account_id); inside, a number
-- stands for the account, since each text key costs an index of its own.

create table accounts (
    account bigint generated always as identity primary key,
    account_id text collate "C" not null unique,
    partition integer not null,
    sequence bigint not null default 0 check (sequence >= 0),
    newest_lot integer not null default 0 check (newest_lot >= 0)
) with (fillfactor = 70);

comment on column accounts.partition is 'Partition of the first record seen for the account: the lanes that own it.';
comment on column accounts.sequence is 'Number of the newest journal row. Gap-free: the row is locked to take one.';
comment on column accounts.newest_lot is 'Number of the newest lot; lots count from 1 in the order they open.';

create table subscriptions (
    account bigint not null references accounts,
    subscription_id text collate "C" not null,
    plan text,
    credits integer check (credits >= 0),
    anchor_at timestamptz,
    ends_at timestamptz,
    primary key (account, subscription_id)
);

comment on table subscriptions is 'What is known of a subscription. A cancel may arrive first: then only ends_at is.';
comment on column subscriptions.credits is 'Credits of the latest allotment, for naming the next one.';
comment on column subscriptions.anchor_at is
'The period start with the latest day of month: later allotments are derived from it, not from each other.';
comment on column subscriptions.ends_at is 'The earliest effective_at of its cancels; null while it runs.';

create table lots (
    account bigint not null references accounts,
    lot integer not null check (lot > 0),
    partition integer not null,
    origin text not null check (origin in ('subscription', 'promotion', 'survey')),
    subscription_id text collate "C",
    plan text,
    period_start timestamptz,
    priority smallint not null,
    granted integer not null check (granted > 0),
    remaining integer not null check (remaining between 0 and granted),
    granted_at timestamptz not null,
    expires_at timestamptz not null,
    full_expires_at timestamptz not null,
    open boolean not null default true,
    primary key (account, lot),
    check (granted_at <= expires_at and expires_at <= full_expires_at),
    check (open or remaining = 0),
    check ((origin = 'subscription') = (subscription_id is not null)),
    check ((origin = 'subscription') = (plan is not null)),
    check ((origin = 'subscription') = (period_start is not null))
) with (fillfactor = 70); -- a debit rewrites `remaining` in place: no index may mention that column

comment on column lots.granted_at is 'First instant the lot can be spent.';
comment on column lots.expires_at is 'First instant it no longer can: the interval is half-open.';
comment on column lots.full_expires_at is 'expires_at as it was before a cancel clamped it.';
comment on column lots.open is 'False once its end is booked.';

-- One allotment per subscription and period, whatever the event ids say.
create unique index lots_one_per_period on lots (account, subscription_id, period_start)
where subscription_id is not null;

-- What a tick has to book, oldest first. Lots that were spent to nothing stay listed until a tick closes them.
create index lots_due on lots (partition, expires_at) where open;

create table journal (
    account bigint not null,
    sequence bigint not null check (sequence > 0),
    request_id uuid not null,
    fingerprint bigint not null,
    is_answer boolean not null,
    worker text not null check (worker in ('send', 'billing', 'expiry')),
    code text not null,
    amount integer not null,
    lot integer,
    lot_expires_at timestamptz,
    balance_before integer not null check (balance_before >= 0),
    balance_after integer not null check (balance_after >= 0),
    as_of timestamptz not null,
    source_partition integer not null,
    source_offset bigint not null,
    recipient_id text,
    relationship text,
    next_allotment_at timestamptz,
    details jsonb,
    primary key (account, sequence),
    check ((amount = 0) = (lot is null)),
    check (is_answer or amount <> 0)
);

comment on table journal is
'Every change and every answer, appended and never edited. One row is one event on a result topic.
No foreign key to accounts: it would cost a look-up per send; the account is locked when a row is written, and the
audit finds a row without one.';
comment on column journal.request_id is 'The request this row answers or, where is_answer is false, that caused it.';
comment on column journal.fingerprint is 'Hash of the request''s type and data, to tell a repeat from a conflict.';
comment on column journal.amount is 'Signed change of the lot''s remaining credits; 0 moves nothing and names no lot.';
comment on column journal.lot_expires_at is 'The lot''s expires_at at this moment; a later cancel does not change it.';
comment on column journal.balance_before is 'Credits the account could spend at as_of, before this row.';
comment on column journal.as_of is 'Broker time of the input record, as its lane read it.';
comment on column journal.details is 'What a billing answer tells beyond the common columns.';

-- An outcome is final for its request id. A conflict is kept beside it, under its own fingerprint. The request id
-- comes
-- first: it finds one row, and ids that grow with time (UUIDv7) then fill the index from one side.
create unique index journal_answers on journal (request_id, account, fingerprint) where is_answer;

-- From an input record to its rows: to publish from the books what retention has taken from the topic.
create index journal_source on journal (worker, source_partition, source_offset);

create table ticks (
    partition integer not null,
    request_id uuid not null,
    fingerprint bigint not null,
    code text not null check (code in ('booked', 'key_conflict')),
    source_offset bigint not null,
    as_of timestamptz not null,
    horizon timestamptz not null,
    lots integer not null check (lots >= 0),
    credits bigint not null check (credits >= 0),
    complete boolean not null,
    primary key (partition, request_id, fingerprint)
);

comment on table ticks is 'The answer to each tick. It has no account, so it is not in the journal; its movements are.';
comment on column ticks.horizon is 'Lots that ended up to here were booked.';
comment on column ticks.complete is 'False when the tick reached its limit of lots and left some to the next.';

create index ticks_source on ticks (partition, source_offset);
