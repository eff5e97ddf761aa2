-- Several Postgres servers for one set of books: each holds some of the partition numbers, and no statement needs two.
--
-- What a server holds is written in itself, so that no other map can be out of date. A server alone holds every number,
-- and nothing here has another row. One new type of row each, empty at first: nothing waits for this migration.
create table shard (
    one boolean primary key default true check (one),
    shard_id uuid not null default gen_random_uuid(),
    ordinal smallint not null default 0 check (ordinal >= 0),
    holds_all boolean not null default true,
    check (holds_all = (ordinal = 0))
);

insert into shard default values;

comment on table shard is 'This server as one of those that hold the books: one row.';
comment on column shard.shard_id is 'Tells servers apart, whatever addresses they are reached at.';
comment on column shard.ordinal is
'0: the first server. The keys that a later one makes (accounts.account and others) begin at ordinal * 2^40, so that
rows can go from one server to another as they are.';
comment on column shard.holds_all is
'Whether it holds the numbers that `shard_numbers` says nothing of: the first server does, later ones do not.';

create table shard_numbers (
    number integer primary key check (number >= 0),
    state text not null check (state in ('held', 'arriving', 'leaving', 'left')),
    other_shard uuid,
    move uuid,
    since timestamptz not null default clock_timestamp(),
    check ((state = 'held') = (other_shard is null)),
    check (state in ('held', 'left') or move is not null)
);

comment on table shard_numbers is 'Partition numbers of which a server holds something else than shard.holds_all says.';
comment on column shard_numbers.state is
'held: its lanes are worked here. leaving, arriving: a move is under way, and nobody works them. left: another server
holds it.';
comment on column shard_numbers.other_shard is 'The server that a number left for, leaves for, or arrives from.';
comment on column shard_numbers.move is 'The move that is under way, or that brought about the state.';

-- How far answers may be published that the lane's row does not note as published: a broker that was killed may tell of
-- an offset before them. Null where all are noted: the owner gave the lane back, or an operator set the group back.
alter table lanes add column maybe_published bigint;

comment on column lanes.maybe_published is
'Up to which offset answers may be published beyond `published`; null: up to no other.';

-- Workers of this version ask whether the number is held as they acquire a lane. One of a version before knows nothing
-- of it: started alone after a number has left, it would begin the lane anew, with accounts that have no credits here.
create function refuse_lane_of_other_server()
returns trigger
language plpgsql
as $$
begin
    if not holds_number(new.partition) then
        raise 'another server holds number %: replace this worker by one of 0.2.0 or later', new.partition
            using errcode = 'serialization_failure';
    end if;
    return new;
end
$$;

create trigger lane_of_other_server
before insert or update of epoch on lanes
for each row when (current_user = 'inmail_worker')
execute function refuse_lane_of_other_server();
