"""Operators' questions and operations: topics, lag, balances, dead letters, replays and comparisons."""
