"""Simulates a population: input events of every kind, reproducible from a seed, in the order of their arrival."""
