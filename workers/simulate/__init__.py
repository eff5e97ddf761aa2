"""A made-up population and its history: input events of every kind, seeded, in the order in which they arrive."""
