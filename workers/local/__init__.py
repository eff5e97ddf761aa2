"""The whole system on one machine without Docker: for a first try, for development and for tests."""
