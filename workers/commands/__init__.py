"""The commands: their options, how they run and end, and the layout of their answers."""
