"""Delivery, exactly once. Knows no credit."""
