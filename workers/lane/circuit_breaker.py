"""The circuit breaker: when a share of everything is bad, the fault is not the records'.

A producer that writes nonsense, a version that cannot read what it should, a catalogue without a plan: each would turn
all that comes into dead letters. The worker ends instead, before it stores the batch that tripped it: what it holds is
decided after the fix, and what went before can be sent again.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.settings import Settings
from schemas.catalogue import Undecodable
from workers.errors import BreakerError
from workers.jobs.dead_letters import LETTER_HEADER
from workers.jobs.job import Place

__all__ = ["FEWEST", "CircuitBreaker"]

FEWEST = 50  # dead letters that say nothing yet, whatever share they are


class CircuitBreaker:
    """Counts the records that a worker read last, over all its lanes."""

    def __init__(self, settings: Settings) -> None:
        self._share = settings.dead_letter_share
        self._window = settings.dead_letter_window
        self._batches: deque[tuple[int, Counter[str]]] = deque()
        self._read = 0
        self._reasons: Counter[str] = Counter()
        self._counted_to: dict[TopicPartition, int] = {}
        self._read_of: dict[TopicPartition, tuple[UUID | None, datetime | None]] = {}

    def begin(self, place: TopicPartition, topic_id: UUID | None, since: datetime | None) -> None:
        """Take note of what a lane is about to read. After another topic, its records count from the first one.

        Args:
            place: the lane's partition.
            topic_id: of the topic.
            since: the lane's watermark as this topic followed another one, or one that had lost its records.

        """
        if self._read_of.setdefault(place, (topic_id, since)) != (topic_id, since):
            self._read_of[place] = topic_id, since
            self._counted_to.pop(place, None)

    def record(self, records: Sequence[ConsumerRecord], refused: Mapping[Place, Undecodable], stored: int = 0) -> int:
        """Count a batch, each record once however often it is decided; return how many of its bad ones are to judge.

        Args:
            records: the batch, of one partition.
            refused: those that cannot be decided, by partition and offset. It may hold other partitions' too.
            stored: the offset before which all was decided when the lane began. Of that only the answers are missing,
                and the breaker that let it be stored may have known of more records than this one.

        """
        if not records:
            return 0
        partition = records[0].partition
        place = TopicPartition(records[0].topic, partition)
        counted_to = self._counted_to.get(place, 0)
        new = len(records)
        if records[0].offset < counted_to:
            new = sum(record.offset >= counted_to for record in records)
        # A message that an operator has sent back was a dead letter before: that it is one again is no news.
        bad_ones = {
            each.offset
            for each in (records if refused else ())
            if (partition, each.offset) in refused and LETTER_HEADER not in dict(each.headers)
        }
        reasons = Counter(refused[partition, offset].reason.value for offset in bad_ones if offset >= counted_to)
        self._counted_to[place] = max(counted_to, records[-1].offset + 1)
        self._add(new, reasons)
        return sum(offset >= stored for offset in bad_ones)

    def judge(self) -> None:
        """Judge what was read last, once all batches are counted that are to be stored together.

        Raises:
            BreakerError: when bad records are too large a share of it.

        """
        bad = self._reasons.total()
        if bad >= FEWEST and bad > self._share * self._read:
            raise BreakerError(self._words(bad))

    def _add(self, read: int, reasons: "Counter[str]") -> None:
        """Add a batch, and forget the oldest ones while the rest still fills the window."""
        self._batches.append((read, reasons))
        self._read += read
        self._reasons += reasons
        while self._read - self._batches[0][0] >= self._window:
            read, reasons = self._batches.popleft()
            self._read -= read
            self._reasons -= reasons

    def _words(self, bad: int) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self._reasons.most_common())
        return (
            f"{bad} of the last {self._read} records cannot be decided ({reasons}), more than the"
            f" {self._share:.0%} of INMAIL_DEAD_LETTER_SHARE: the last batch is held, not turned into dead letters. See"
            " `inmail dead-letters list`; mend the producer, the plan catalogue or this version and start again. To let"
            " them through as dead letters, start with INMAIL_DEAD_LETTER_SHARE=1"
        )
