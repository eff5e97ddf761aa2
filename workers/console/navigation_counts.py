"""The counts beside the names of views: how much there is of what an operator may have to look at."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from workers.console.time_series import Bucket, Family
from workers.ops.lag import GroupLag, Status

__all__ = ["navigation_counts"]

_HOUR: Final = timedelta(hours=1)


def navigation_counts(
    groups: Sequence[GroupLag], buckets: Iterable[Bucket], now: datetime, running: int
) -> dict[str, int]:
    """Return the counts: groups that are not OK, dead letters of the last hour, running operations.

    Dead letters are those that this console has seen come: a console that has just started knows of none.
    """
    since = (now - _HOUR).timestamp()
    letters = sum(sum(each.counts.get(Family.DEAD_LETTERS, {}).values()) for each in buckets if each.start > since)
    return {
        "lag": sum(group.status is not Status.OK for group in groups),
        "dead_letters": round(letters),
        "operations": running,
    }
