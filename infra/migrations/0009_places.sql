-- An account's number is murmur2 of its id, whoever sent its first record and wherever that came in.
--
-- Until now it was the partition of the first record that was seen. Where a producer partitioned in another way than
-- the contract asks, the account stayed with lanes that none of its later records waits for, and a tick of theirs
-- booked its lots before a send could spend from them.

-- How many partitions the numbers are counted by: as many as each input topic has. It is kept here, since a number in
-- the books and one that a worker computes have to be of one kind, also while a worker still runs that started before
-- partitions were added. The first lane that opens writes it; where it differs from its topic's, a lane holds, and
-- `inmail topics apply` numbers the accounts anew.
create table partitioning (
    one boolean primary key default true check (one),
    partitions integer not null check (partitions > 0)
);

comment on table partitioning is
'By how many partitions accounts are numbered: one row, or none before the first lane.';

-- These two as workers/ledger/sql/account_number.sql has them, which replaces them when all migrations are applied.
create function murmur2(p_bytes bytea)
returns bigint
language plpgsql immutable strict parallel safe
as $$
declare
    m constant bigint := 1540483477;
    low constant bigint := 4294967295;
    size constant integer := octet_length(p_bytes);
    rest constant integer := size % 4;
    at integer := 0;
    k bigint;
    h bigint := 2538058380 # size;
begin
    while at + 4 <= size loop
        k := get_byte(p_bytes, at)::bigint + (get_byte(p_bytes, at + 1)::bigint << 8)
            + (get_byte(p_bytes, at + 2)::bigint << 16) + (get_byte(p_bytes, at + 3)::bigint << 24);
        k := (k * m) & low;
        k := ((k # (k >> 24)) * m) & low;
        h := ((h * m) & low) # k;
        at := at + 4;
    end loop;
    if rest > 0 then
        k := get_byte(p_bytes, at);
        if rest > 1 then
            k := k + (get_byte(p_bytes, at + 1)::bigint << 8);
        end if;
        if rest > 2 then
            k := k + (get_byte(p_bytes, at + 2)::bigint << 16);
        end if;
        h := ((h # k) * m) & low;
    end if;
    h := ((h # (h >> 13)) * m) & low;
    return (h # (h >> 15)) & 2147483647;
end;
$$;

create function account_number(p_account_id text, p_partitions integer)
returns integer
language sql immutable strict parallel safe
as $$
    select (murmur2(convert_to(p_account_id, 'UTF8')) % p_partitions)::integer;
$$;

do $$
declare
    -- Every partition has had a lane once the books were worked at all. Were one missing, the lanes would say so.
    count integer := (select max(l.partition) + 1 from lanes as l);
    moved bigint;
begin
    if count is null then
        return;
    end if;
    lock table accounts in exclusive mode; -- nothing is decided meanwhile, by the old numbers
    insert into partitioning (partitions) values (count);
    update accounts as a
    set partition = account_number(a.account_id, count)
    where a.partition <> account_number(a.account_id, count);
    get diagnostics moved = row_count;
    update lots as l
    set partition = a.partition
    from accounts as a
    where l.account = a.account and l.partition <> a.partition;
    if moved > 0 then
        raise notice '% of % accounts moved to their own number, by % partitions: a producer does not partition by '
            'key with murmur2', moved, (select count(*) from accounts), count;
    end if;
end;
$$;

-- A lane that was given a time far ahead of its own host's clock holds the record, and an operator decides.
alter table lanes
add column held text,
add column held_offset bigint check (held_offset >= 0),
add column held_time timestamptz;

comment on column lanes.held is 'Why it holds a record, in words; null while it holds none.';
comment on column lanes.held_offset is 'The record that it holds.';
comment on column lanes.held_time is 'That record''s time, by the broker.';

create table clock_decisions (
    decision bigint generated always as identity primary key,
    operation bigint not null references operations,
    topic text not null,
    partition integer not null,
    kind text not null check (kind in ('accept', 'set_aside')),
    first_offset bigint not null check (first_offset >= 0),
    next_offset bigint not null check (next_offset > first_offset),
    time timestamptz not null
);

comment on table clock_decisions is
'What operators decided about records of a time far ahead. Kept for good: a record that is read again comes out alike.';
comment on column clock_decisions.kind is
'accept: records of the range of a time up to `time` are decided as of it; set_aside: those of one after `time` become
dead letters and move no clock.';

create index clock_decisions_place on clock_decisions (topic, partition);

-- Who sends records to other partitions than murmur2 of their key gives. A row is written by one lane only.
create table misplaced_records (
    topic text not null,
    partition integer not null,
    source text not null,
    records bigint not null check (records > 0),
    first_at timestamptz not null,
    last_at timestamptz not null,
    last_offset bigint not null,
    primary key (topic, partition, source)
);

comment on table misplaced_records is
'Records of accounts with another number than the partition they came in on, by the source their events name. Of each
partition only so many sources are kept by name; all others are counted together.';
comment on column misplaced_records.first_at is 'Broker time of the first of them, as it was decided.';
comment on column misplaced_records.last_offset is 'The last that was counted: one that is read again counts once.';
