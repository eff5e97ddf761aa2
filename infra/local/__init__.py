"""Apache Kafka and PostgreSQL on a machine that has neither, for tests, demos and development."""
