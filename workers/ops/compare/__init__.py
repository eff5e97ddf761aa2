"""Two ledger databases compared line by line."""
