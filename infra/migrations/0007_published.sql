-- How far the answers of a lane are known to be published. The group's committed offset says it too, and says it first;
-- but a broker that was killed and started again may answer for a while with an offset of minutes ago, or with none.
alter table lanes add column published bigint check (published >= 0);

-- A lane that has stored something had an offset to begin at, whatever it was.
update lanes set published = 0
where next_offset is not null;

comment on column lanes.published is
'Up to where its owner knew the answers published when it last wrote here; a committed offset before it is doubted.';
