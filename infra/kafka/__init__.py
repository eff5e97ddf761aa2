"""Kafka: clients with this system's settings, transactions, and queries to a cluster. No code about credits."""
