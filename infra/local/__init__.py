"""Real Apache Kafka and real PostgreSQL on a machine that has neither: for tests, demos and development."""
