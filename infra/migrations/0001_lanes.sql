-- One row per lane: an input partition as one consumer group reads it.
--
-- The row is written in the transaction that stores a batch's outcomes, so it always tells how far the
-- books reach. Kafka's committed offset tells how far the answers reach; the distance between the two is
-- what was stored and not yet published.
create table lanes (
    consumer_group text not null,
    topic text not null,
    partition integer not null,
    epoch bigint not null check (epoch > 0),
    next_offset bigint check (next_offset >= 0),
    as_of timestamptz,
    primary key (consumer_group, topic, partition)
) with (fillfactor = 10); -- rewritten with every batch: room on the page keeps those updates off the index

comment on column lanes.epoch is 'Raised by each owner of the partition; a batch of an older epoch is refused.';
comment on column lanes.next_offset is 'Offset after the last record whose outcome is stored; null before the first.';
comment on column lanes.as_of is 'Watermark: the latest broker timestamp this lane has read. Never runs back.';
