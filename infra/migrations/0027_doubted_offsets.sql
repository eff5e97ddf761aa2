-- Whoever takes over a lane that is in doubt how far its answers are published need not ask the brokers as often as the
-- first one did. Nothing waits for this.
alter table lanes add column doubted bigint;

comment on column lanes.doubted is
'The offset of the group as the brokers told it when they had been asked often enough: answers beyond it are published
where they cannot be read, and the group''s offset stays until all are. Null: the group''s offset is not in doubt.';
