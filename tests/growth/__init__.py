"""What the ledger costs as it grows: `make growth ROWS=100000000`."""
