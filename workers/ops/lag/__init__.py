"""Lag: how far each group is behind its input, in records and in time, how it stands, and why."""

from workers.ops.lag.model import Change, GroupLag, Limits, Owner, PartitionLag, Sample, Status
from workers.ops.lag.observer import Observer, observer, read_lag

__all__ = [
    "Change",
    "GroupLag",
    "Limits",
    "Observer",
    "Owner",
    "PartitionLag",
    "Sample",
    "Status",
    "observer",
    "read_lag",
]
