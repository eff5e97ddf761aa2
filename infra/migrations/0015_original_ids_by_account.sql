-- The read API is asked for a request by its account and its producer's id. Where producers count within an account,
-- many accounts have the same id.
create index original_ids_account on original_ids (account, original);
