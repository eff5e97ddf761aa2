-- What lanes of one partition number need to know of each other to decide in one order.
alter table lanes
add column head timestamptz,
add column awaited boolean not null default false;

comment on column lanes.head is
'While it waits for its turn: the broker''s time of the first record that it has received and not decided.';
comment on column lanes.awaited is
'Whether others wait for it: it is at work, or was when its process died. Not while a tick takes many steps.';

create table decided_ahead (
    consumer_group text not null,
    partition integer not null,
    neighbour text not null,
    neighbour_offset bigint not null,
    first_offset bigint not null,
    next_offset bigint not null check (next_offset > first_offset),
    as_of timestamptz not null,
    primary key (consumer_group, partition, neighbour, neighbour_offset)
);

comment on table decided_ahead is
'Records decided although another lane of their partition number had not read up to them, or had passed them.';
comment on column decided_ahead.neighbour is 'Consumer group of that lane.';
comment on column decided_ahead.neighbour_offset is 'Where it stood: its next offset.';
comment on column decided_ahead.first_offset is 'The first record that was decided while it stood there.';
comment on column decided_ahead.next_offset is 'Offset after the last of them.';
comment on column decided_ahead.as_of is 'Broker time of the last of them.';
