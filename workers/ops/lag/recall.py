"""What an observer did not see because it was not there yet: samples of the last minutes, made from Kafka's own record.

Kept by nobody: the commits are in `__consumer_offsets`, and where a partition ended at a moment is the offset of the
first record after it. A table of our own would know only what some observer had seen, would need a right to write, and
would not be there when the database is the trouble.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from aiokafka import TopicPartition

from infra.clock import to_milliseconds
from infra.kafka.cluster_queries import ClusterQueries
from infra.kafka.commit_history import Commit, Commits, read_commits
from workers.ops.lag.model import Sample, StatusLimits

__all__ = ["CurrentPartition", "backfill_samples"]

_WINDOWS_AGO = (20, 10, 5, 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)

PartitionKey = tuple[str, TopicPartition]


class CurrentPartition(NamedTuple):
    """A partition of a group as it is now."""

    sample: Sample
    oldest_at: datetime | None  # broker's time of its oldest unread record


async def backfill_samples(
    lookup: ClusterQueries, now: Mapping[PartitionKey, CurrentPartition], at: datetime, limits: StatusLimits
) -> dict[PartitionKey, list[Sample]]:
    """Return samples of before for partitions that have unread records, the oldest first.

    Raises:
        KafkaError: when a broker does not answer.

    """
    if not now:
        return {}
    moments = [at - timedelta(seconds=limits.window_seconds * windows) for windows in _WINDOWS_AGO]
    commits = await read_commits(lookup, {group for group, _ in now}, moments[0])
    places = {place for _, place in now}
    found: dict[PartitionKey, list[Sample]] = {key: [] for key in now}
    for moment in moments:
        ends = await lookup.offsets(dict.fromkeys(places, to_milliseconds(moment)))
        for key, seen in now.items():
            if key[1] in ends and (committed := _committed_at(key, seen, moment, commits)) is not None:
                end = seen.sample.end if ends[key[1]] < 0 else ends[key[1]]
                found[key].append(Sample(moment, committed, end, _records_at(seen, moment, committed, end)))
    return {
        key: sorted([*samples, *_before_drops(now[key], commits.found.get(key, ()))]) for key, samples in found.items()
    }


def _before_drops(seen: CurrentPartition, commits: Sequence[Commit]) -> Iterator[Sample]:
    """Yield where the group stood before its offset went back, which may have been between two moments."""
    for before, after in pairwise(commits):
        if after.offset < before.offset:
            yield Sample(before.time, before.offset, seen.sample.end, max(0, seen.sample.end - before.offset))


def _committed_at(key: PartitionKey, seen: CurrentPartition, moment: datetime, commits: Commits) -> int | None:
    """Return the offset that stood at a moment; None where it is not known."""
    known = commits.found.get(key, [])
    index = bisect_right(known, moment, key=lambda commit: commit.time)
    if index:
        return known[index - 1].offset
    # None was committed since, if the record goes back so far.
    return seen.sample.committed if not known and key[0] in commits.whole else None


def _records_at(seen: CurrentPartition, moment: datetime, committed: int, end: int) -> int:
    """Return how many records were unread at a moment. The oldest one of now was not there before its time."""
    if committed == seen.sample.committed and seen.oldest_at is not None and moment < seen.oldest_at:
        return 0
    return max(0, end - committed)
