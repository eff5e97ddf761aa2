-- From when on answers beyond `published` can be in the result topics: whoever has to look for them begins there. Where
-- it is null, they are looked for from the time on at which the broker received the first record.
alter table lanes add column published_time timestamptz;

comment on column lanes.published_time is
'The broker''s time of a turn that published up to `published`, or of one before it: no answer to a later record was
received earlier, but for those from before a rewind. Null: not known.';
comment on column lanes.maybe_published is
'Up to which offset answers may be published; null: nobody has noted it.';

alter table ended_topics add column published_time timestamptz;

comment on column ended_topics.published_time is
'That of the lane''s row then: no answer from `unpublished_from` on was received earlier. Null: not known.';
