-- How far the answers of a lane are known to be published. The group's committed offset says it too, and says it first;
-- but a broker that was killed and started again may answer for a while with an offset of minutes ago, or with none.
alter table lanes add column published bigint check (published >= 0);

comment on column lanes.published is
'Up to where its owner knew the answers published when it last wrote here; a committed offset before it is doubted.';
