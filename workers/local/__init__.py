"""The whole system on one machine, without Docker: for a first look, for development and for tests."""
