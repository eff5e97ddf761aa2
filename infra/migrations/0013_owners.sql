-- A lane belongs to an owner: a worker process, under a name that no other process and no later start of it has. The
-- owner's two transactional producers are named after it. Whoever takes the lane next fences them in Kafka first,
-- unless the owner has given the lane back.
--
-- Workers of the version before name their producers after the lane, and know nothing of owners: they raise the epoch
-- and leave these two columns as they are. So an owner counts only together with the epoch at which it was written.
-- What such a worker can fence is another worker of its kind: a lane that an owner has not given back, it may not take.
alter table lanes
add column owner text,
add column owner_epoch bigint,
add constraint lane_is_held_by_a_worker_of_a_later_version check (owner is null or owner_epoch = epoch);

comment on column lanes.owner is
'Name of the owner that has not given the lane back: the stem of the transactional ids that its successor fences.';
comment on column lanes.owner_epoch is
'The epoch at which an owner was written here or gave the lane back; another than `epoch`: a worker of 0.1.0 has it.';
