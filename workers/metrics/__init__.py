"""Metrics: their table, and how a worker keeps them."""
