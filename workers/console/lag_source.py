"""Where the console has lag from, and how it went: the one place to change when lag is observed in another way."""

from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from infra.clock import utc_now
from infra.settings import Settings
from workers.ops.lag import GroupLag, read_lag

__all__ = ["LagSource", "Sample"]

_KEPT: Final = 360  # samples of a partition: 12 minutes at the pace of a page that is looked at


class Sample(NamedTuple):
    """One partition at one moment."""

    at: datetime
    end: int
    committed: int | None
    records: int
    seconds: float


class LagSource:
    """The lag of the workers' groups as it was read last, and a ring of how it was before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rings: dict[tuple[str, str, int], deque[Sample]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self.groups: Sequence[GroupLag] = ()
        self.at: datetime | None = None  # when they were read

    async def refresh(self) -> None:
        """Read it anew.

        Raises:
            NotSetUpError: when a topic does not exist.
            KafkaError: when the cluster cannot be reached.

        """
        self.groups, self.at = await read_lag(self._settings), utc_now()
        for group in self.groups:
            for each in group.partitions:
                sample = Sample(self.at, each.end, each.committed, each.records, each.seconds)
                self._rings[each.group, each.topic, each.partition].append(sample)

    def history(self, group: str, topic: str, partition: int) -> Sequence[Sample]:
        """Return how a partition was, the oldest sample first."""
        return tuple(self._rings.get((group, topic, partition), ()))
