-- From when on answers beyond `published` can be in the result topics: whoever has to look for them begins there. A null
-- is no promise: then they are looked for from the time on at which the broker received the first record.
alter table lanes add column published_time timestamptz;

comment on column lanes.published_time is
'The broker''s time of a turn that published up to `published`, or of one before it: no answer to a later record was
received earlier. Null: not known.';
