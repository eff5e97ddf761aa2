-- The ledger: accounts, their subscriptions, their lots, and one journal.
--
-- Every table is keyed by account first. Text ids stay at the edge (accounts.account_id); inside, a number
-- stands for the account, since each text key costs an index of its own.

create table accounts (
    account bigint generated always as identity primary key,
    account_id text collate "C" not null unique,
    partition integer not null,
    sequence bigint not null default 0 check (sequence >= 0),
    newest_lot integer not null default 0 check (newest_lot >= 0),
    level smallint not null default 2 check (level between 0 and 2),
    paid_from timestamptz not null default '-infinity',
    paid integer not null default 0 check (paid >= 0),
    paid_before integer not null default 0 check (paid_before >= 0),
    erased_at timestamptz
) with (fillfactor = 70);

comment on column accounts.partition is 'Partition of the first record seen for the account: the lanes that own it.';
comment on column accounts.sequence is 'Number of the newest journal row. Gap-free: the row is locked to take one.';
comment on column accounts.newest_lot is 'Number of the newest lot; lots count from 1 in the order they open.';
comment on column accounts.level is
'What its holder was last told or knows: 0 enough credits, 1 low, 2 none. A notice goes out when it rises.';
comment on column accounts.paid_from is 'Start of the 24 hours in which `paid` counts sends that were paid for.';
comment on column accounts.paid_before is
'The same for the 24 hours before. The two together are never less than what a limit counts, so that only an account
that may be over its limit has its journal read.';
comment on column accounts.erased_at is 'When it was erased: from then on it gets no credits and spends none.';

create table subscriptions (
    account bigint not null references accounts,
    subscription_id text collate "C" not null,
    plan text,
    credits integer check (credits >= 0),
    period_start timestamptz,
    anchor_day smallint check (anchor_day between 1 and 31),
    ends_at timestamptz,
    primary key (account, subscription_id),
    check ((period_start is null) = (plan is null)),
    check ((period_start is null) = (credits is null)),
    check ((period_start is null) = (anchor_day is null))
);

comment on table subscriptions is 'What is known of a subscription. A cancel may arrive first: then only ends_at is.';
comment on column subscriptions.period_start is 'Start of the latest period that was granted, or that its plan gave 0.';
comment on column subscriptions.credits is 'Credits that its plan gave then, for naming the next allotment.';
comment on column subscriptions.anchor_day is
'Day of the month that later allotments are derived from: 31 gives 28 February and then 31 March.';
comment on column subscriptions.ends_at is 'The earliest effective_at of its cancels; null while it runs.';

create table lots (
    account bigint not null references accounts,
    lot integer not null check (lot > 0),
    partition integer not null,
    request_id uuid not null,
    origin text not null check (origin in ('subscription', 'promotion', 'survey', 'purchase', 'adjustment')),
    subscription_id text collate "C",
    plan text,
    period_start timestamptz,
    priority smallint not null,
    on_change text not null check (on_change in ('keep', 'forfeit')),
    credit_back boolean not null,
    balance_cap integer check (balance_cap >= 0),
    granted integer not null check (granted > 0),
    remaining integer not null check (remaining between 0 and granted),
    granted_at timestamptz not null,
    expires_at timestamptz not null,
    full_expires_at timestamptz not null,
    open boolean not null default true,
    freed boolean not null default false,
    cap_pending boolean not null,
    warned boolean not null default false,
    primary key (account, lot),
    check (granted_at <= expires_at and expires_at <= full_expires_at),
    check (open or remaining = 0),
    check (not (open and freed)),
    check ((origin = 'subscription') = (subscription_id is not null)),
    check ((origin = 'subscription') = (plan is not null)),
    check ((origin = 'subscription') = (period_start is not null))
) with (fillfactor = 70); -- a debit rewrites `remaining` in place: no index may mention that column

comment on column lots.request_id is 'The event that granted it, by which billing can void it.';
comment on column lots.on_change is 'What a plan change does with it; like priority, cap and credit_back as it opened.';
comment on column lots.credit_back is 'Whether a recipient''s answer gives the credit of a send back.';
comment on column lots.granted_at is 'First instant the lot can be spent.';
comment on column lots.expires_at is 'First instant it no longer can: the interval is half-open.';
comment on column lots.full_expires_at is 'expires_at as it was before a cancel clamped it.';
comment on column lots.open is 'False once its end is booked, or it was voided or forfeited.';
comment on column lots.freed is 'A plan change closed it before it began: its period may be granted again.';
comment on column lots.cap_pending is 'It was not spendable yet when it opened: a tick past its date applies the cap.';
comment on column lots.warned is 'Its coming end was announced, or it was empty when that was due.';

-- One allotment per subscription and period, whatever the event ids say.
create unique index lots_one_per_period on lots (account, subscription_id, period_start)
where subscription_id is not null and not freed;

-- What a tick has to book, to announce and to cut, oldest first.
create index lots_due on lots (partition, expires_at, account, lot) where open;
create index lots_to_announce on lots (partition, expires_at, account, lot) where open and not warned;
create index lots_to_cut on lots (partition, granted_at, account, lot) where cap_pending;

-- The request that rows answer or that caused them, as the functions of the ledger take it.
create type request as (
    account bigint,
    request_id uuid,
    fingerprint bigint,
    worker text,
    as_of timestamptz,
    source_partition integer,
    source_offset bigint
);

-- Lots that a tick has something to do for, by their keys and when it became due, as parallel arrays.
create type due_lots as (
    accounts bigint [],
    lots integer [],
    ats timestamptz []
);

-- Where a lot stands among those that become due, in the order of the indexes above.
create type lot_place as (
    at timestamptz,
    account bigint,
    lot integer
);

-- A lot to open, as the catalogue and the event define it.
create type lot_terms as (
    origin text,
    source_id text,
    subscription_id text,
    plan text,
    period_start timestamptz,
    credits integer,
    priority smallint,
    granted_at timestamptz,
    full_expires_at timestamptz,
    on_change text,
    credit_back boolean,
    balance_cap integer,
    actor text,
    reason text
);

-- Limits of paid sends: of an account and of a seat in 24 hours, and the time between two to one recipient. 0: none.
create type send_limits as (
    daily integer,
    seat integer,
    cooldown interval
);

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
    balance_before bigint not null check (balance_before >= 0),
    balance_after bigint not null check (balance_after >= 0),
    as_of timestamptz not null,
    source_partition integer not null,
    source_offset bigint not null,
    recipient_id text,
    relationship text,
    next_allotment_at timestamptz,
    details jsonb,
    sender_id text,
    reverses bigint,
    primary key (account, sequence),
    constraint amount_fits_code check (
        case
            when code = 'charged' then amount = -1 and balance_after = balance_before - 1
            when code in ('granted', 'reversed') then amount > 0
            when code in ('expired', 'forfeited', 'cap_forfeited', 'adjusted') then amount < 0
            when code = 'voided' then amount <= 0
            else amount = 0
        end
    ),
    constraint amount_names_its_lot check (
        (lot is not null) = (lot_expires_at is not null) and (amount = 0 or lot is not null)
    ),
    constraint only_answers_are_alone check (
        is_answer or amount <> 0 or code in ('voided', 'low', 'exhausted', 'expiring_soon')
    ),
    constraint reversal_names_its_send check ((reverses is not null) = (code in ('reversed', 'lot_ended')))
);

comment on table journal is
'Every change and every answer, appended and never edited. One row is one event on a result topic.
No foreign key to accounts: it would cost a look-up per send; the account is locked when a row is written, and the
audit finds a row without one.';
comment on column journal.request_id is 'The request this row answers or, where is_answer is false, that caused it.';
comment on column journal.fingerprint is 'Hash of the request''s type and data, to tell a repeat from a conflict.';
comment on column journal.amount is 'Signed change of the lot''s remaining credits.';
comment on column journal.lot_expires_at is 'The lot''s expires_at at this moment; a later cancel does not change it.';
comment on column journal.balance_before is 'Credits the account could spend at as_of, before this row.';
comment on column journal.as_of is 'Broker time of the input record, as its lane read it.';
comment on column journal.details is 'What a row tells beyond the common columns.';
comment on column journal.reverses is 'Sequence of the send that this row takes back.';

-- An outcome is final for its request id. A conflict is kept beside it, under its own fingerprint, in an index of its
-- own: an id that a producer uses for everything costs nobody else anything. The request id comes first: it finds one
-- row, and ids that grow with time (UUIDv7) then fill the index from one side.
create unique index journal_outcomes on journal (request_id, account)
where is_answer and code <> 'key_conflict';
create unique index journal_conflicts on journal (request_id, account, fingerprint)
where is_answer and code = 'key_conflict';

-- From an input record to its rows: to publish from the books what retention has taken from the topic.
create index journal_source on journal (source_partition, source_offset);

-- What an account paid for within a time: its limits.
create index journal_paid on journal (account, as_of) where code = 'charged';

-- A send is taken back at most once, whatever the cause.
create unique index journal_one_reversal on journal (account, reverses) where reverses is not null;

create table ticks (
    partition integer not null,
    request_id uuid not null,
    fingerprint bigint not null,
    code text not null check (code in ('booking', 'booked', 'key_conflict')),
    source_offset bigint not null,
    as_of timestamptz not null,
    horizon timestamptz not null,
    lots integer not null check (lots >= 0),
    credits bigint not null check (credits >= 0),
    complete boolean not null,
    steps integer not null check (steps >= 0),
    ended lot_place not null default ('-infinity', 0, 0),
    cut lot_place not null default ('-infinity', 0, 0),
    announced lot_place not null default ('-infinity', 0, 0),
    primary key (partition, request_id, fingerprint)
);

comment on table ticks is 'The answer to each tick. It has no account, so it is not in the journal; its movements are.';
comment on column ticks.code is 'booking: some of its steps are done. It is answered when it is booked.';
comment on column ticks.horizon is 'Lots that ended up to here were booked.';
comment on column ticks.complete is 'False when the tick reached its limit of steps and left some lots to the next.';
comment on column ticks.ended is 'How far its steps have come: the last lot whose end was booked. So the next two.';

create index ticks_source on ticks (partition, source_offset);
