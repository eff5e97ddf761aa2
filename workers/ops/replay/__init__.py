"""Replay past decisions without moving credits again: rewind, reemit, rebuild."""
