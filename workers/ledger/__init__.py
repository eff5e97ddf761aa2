"""The ledger: accounts, lots and one journal. Start with README.md, then model.py, then sql/debit.sql."""
