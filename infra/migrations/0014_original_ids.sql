-- Ids of requests that are no UUIDs, as their producers gave them. The ledger's own id of such a request is derived
-- from its source and id, so that whoever knows both finds it; this table gives the id back in results.
create table original_ids (
    account bigint not null,
    request_id uuid not null,
    original bytea not null,
    primary key (request_id, account)
);

comment on table original_ids is
'The id that a producer gave to a request, where it is no UUID. Written once, with the request''s first row.';
comment on column original_ids.original is
'In UTF-8: a producer may use characters that the database''s own encoding does not have.';

create index original_ids_original on original_ids (original);
