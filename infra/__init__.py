"""Kafka, Postgres, settings, clocks and logs. No code about credits."""
