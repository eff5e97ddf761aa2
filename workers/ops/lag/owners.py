"""Since when each partition has the member that it has now: one that was just taken over is not judged by its past."""

from datetime import datetime

from workers.ops.lag.lanes import LaneKey
from workers.ops.lag.model import Owner

__all__ = ["OwnerMemory"]


class OwnerMemory:
    """The owners as an observer saw them."""

    def __init__(self) -> None:
        self._known: dict[LaneKey, tuple[str, datetime | None]] = {}

    def since(self, key: LaneKey, owner: Owner | None, at: datetime, *, first: bool) -> datetime | None:
        """Return when a partition was first seen with its owner; None where the first look already saw it with that.

        Args:
            key: the group and the partition.
            owner: the member that has the partition now; None where no member has it.
            at: the time of this look.
            first: whether this look is the observer's first.

        """
        id_ = owner.id if owner is not None else ""
        known = self._known.get(key)
        if known is None or known[0] != id_:
            self._known[key] = known = id_, None if first else at
        return known[1]

    def forget(self, key: LaneKey) -> None:
        """Forget a partition that is not watched any more."""
        self._known.pop(key, None)
