"""The read API: what an application asks the ledger over HTTP. It changes nothing."""
