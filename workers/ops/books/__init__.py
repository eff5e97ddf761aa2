"""The ledger's database as operators read it: snapshot, balance, statement, audit, metrics."""
