-- Which topic a lane reads: one that was deleted and created again has the same name, other records at the same
-- offsets, and another id.
alter table lanes
add column topic_id uuid,
add column topic_since timestamptz not null default '-infinity',
add column halted text;

comment on column lanes.topic_id is 'Kafka''s id of the topic that the offsets of this row are of; null: unknown.';
comment on column lanes.topic_since is
'The watermark at which this topic followed another, or what is left of it. Rows of the lane with a later as_of are
of records of the topic as it is, rows with this one or an earlier one of records that are gone.';
comment on column lanes.halted is 'Why the lane cannot go on before an operator decides; null once it goes on.';

create table ended_topics (
    consumer_group text not null,
    topic text not null,
    partition integer not null,
    as_of timestamptz not null,
    topic_id uuid,
    next_offset bigint not null check (next_offset >= 0),
    unpublished_from bigint check (unpublished_from between 0 and next_offset),
    ended_at timestamptz not null,
    primary key (consumer_group, topic, partition, as_of)
);

comment on table ended_topics is
'How far each lane had read a topic that was made anew, or lost records, when it went on with what is there now.';
comment on column ended_topics.as_of is
'The watermark then: rows of the lane up to it, and after the one before, are of records of this topic.';
comment on column ended_topics.unpublished_from is
'From here on answers may not be published: the lane publishes them from the books before it goes on. Null once done.';
comment on column ended_topics.ended_at is 'When an operator let the lane go on, by the clock of that machine.';
