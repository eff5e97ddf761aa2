"""Lanes' clocks: how far each has come, records of a time far ahead, and setting back a clock that was carried off."""
