"""Kafka: clients made the one way, transactions, and questions to a cluster. Knows nothing of credits."""
