"""One step from how topics and groups are to how they should be, and the error of a cluster that refuses one."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["TopicChange", "TopicsError", "format_counted"]


class TopicsError(Exception):
    """The cluster cannot be made as it should be: the order of accounts would be lost, or it refuses a step."""


@dataclass(frozen=True, slots=True)
class TopicChange:
    """One step from how the cluster is to how it should be."""

    kind: str  # "create", "set", "renew", "start", "reset" or "number"
    topic: str
    text: str
    config: Mapping[str, str] | None = None
    group: str | None = None
    starts: Mapping[int, int] | None = None  # offset by partition; where that is gone, the oldest


def format_counted(number: int, what: str) -> str:
    """Return a number of things as text: `1 partition`, `2 partitions`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
