-- Where an operator has set a lane's clock back. What was decided before stays, as of later times than what is decided
-- since: whoever goes by the order of times has to know.
create table clock_set_backs (
    consumer_group text not null,
    topic text not null,
    partition integer not null,
    next_offset bigint not null check (next_offset >= 0),
    as_of timestamptz not null,
    set_back_to timestamptz not null check (set_back_to < as_of),
    set_back_at timestamptz not null default clock_timestamp(),
    primary key (consumer_group, topic, partition, set_back_at)
);

comment on table clock_set_backs is 'Where an operator has set a lane''s clock back; kept for good.';
comment on column clock_set_backs.next_offset is 'The record from which on the lane goes by the earlier time.';
comment on column clock_set_backs.as_of is 'Its watermark before.';
comment on column clock_set_backs.set_back_to is 'Its watermark from then on.';

-- Decisions about records of a topic that has ended since would be of other records at the same offsets.
delete from clock_decisions as c
using ended_topics as e, operations as o, lanes as l
where
    e.topic = c.topic and e.partition = c.partition and o.operation = c.operation and o.started_at < e.ended_at
    and l.consumer_group = e.consumer_group and l.topic = e.topic and l.partition = e.partition
    and l.topic_id <> e.topic_id;
