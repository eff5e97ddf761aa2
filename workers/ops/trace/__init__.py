"""Traces one request from its record to its published answer."""
