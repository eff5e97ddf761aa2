"""Lag: how far each group is behind its input, in records and in time, how it stands, and why."""

from workers.ops.lag.model import GroupLag, Owner, PartitionLag, Sample, Status, StatusChange, StatusLimits
from workers.ops.lag.observer import LagObserver, observer, read_lag

__all__ = [
    "GroupLag",
    "LagObserver",
    "Owner",
    "PartitionLag",
    "Sample",
    "Status",
    "StatusChange",
    "StatusLimits",
    "observer",
    "read_lag",
]
