"""The machines beneath: Kafka, Postgres, clocks, logs. Knows nothing of credits."""
