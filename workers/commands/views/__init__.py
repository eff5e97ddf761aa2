"""How answers look on a terminal: one file for each room of `workers/ops`."""
