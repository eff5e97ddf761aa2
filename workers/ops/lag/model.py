"""What lag is told in: a sample, a partition's lag, a group's, and the words for how it stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from infra.lock_holder import LockHolder
from workers.topology import TOPIC_OF_GROUP

__all__ = [
    "Classification",
    "Facts",
    "GroupLag",
    "Owner",
    "PartitionLag",
    "Sample",
    "Status",
    "StatusChange",
    "StatusLimits",
]


class Status(StrEnum):
    """How a partition stands with a group. `docs/lag.md` tells what to do."""

    OK = "OK"  # all is read, or what is unread gets less
    WAITING = "WAITING"  # for another lane of its number, by the order of the records
    SLOW = "SLOW"  # it gets on, and what is unread does not get less
    REWOUND = "REWOUND"  # its offset went back, and it has not come as far again
    UNKNOWN = "UNKNOWN"  # no broker says where the partition ends
    HELD = "HELD"  # an open transaction of a producer keeps what comes next from every reader
    STALLED = "STALLED"  # its reader is there, and does not get on
    LOCKED = "LOCKED"  # somebody's lock in Postgres keeps our lane from getting on
    NEVER_COMMITTED = "NEVER COMMITTED"
    EXPIRED = "EXPIRED"  # the books have read it, and Kafka has forgotten the group's offset
    STOPPED = "STOPPED"  # nobody reads it
    PAUSED = "PAUSED"  # an operator decides: the breaker ended its worker, or a record's time is far ahead
    HALTED = "HALTED"  # its lane cannot go on before an operator decides
    BEYOND_BOOKS = "BEYOND BOOKS"  # the group's offset is beyond what the books have read: records were passed over
    BEYOND_END = "BEYOND END"  # an offset is beyond the partition's end: what is there now may be unread
    RECREATED = "RECREATED"  # the topic is another one than the books have read

    @property
    def severity(self) -> int:
        """How bad it is, from 0: a group is as bad as its worst partition."""
        return list(Status).index(self)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a partition beside its samples."""

    now: datetime
    seconds: float = 0.0  # age of the oldest unread record
    readable: int = 0  # unread records that a reader of committed ones can read now
    held: int = 0
    ours: bool = False  # one of our own workers' groups: they are always members, and cannot begin without an offset
    members: int | None = None  # of the group; None: not known
    settled: bool = True  # it is known who reads what
    owned: bool = True  # a member has the partition
    owned_since: datetime | None = None  # when it was first seen with that member; None: it had it at the first look
    unknown: str | None = None  # why it is not known where the partition ends
    paused: str | None = None  # what the breaker said when it ended the lane's worker
    holding: str | None = None  # why the lane holds a record for an operator to decide
    waiting: str | None = None  # for whom the lane waits
    unheld: str | None = None  # why no server works the lane, where several hold the books
    place: tuple[str, int] = ("", 0)  # our worker's name, and the partition
    oldest: int = 0  # offset of the oldest record that is left
    stored: int | None = None  # up to which offset our books have read; None: not known
    recreated: str | None = None  # which topic the books have read, where it is not this one
    halted: str | None = None  # why our lane cannot go on
    locked: str | None = None  # who keeps locked in Postgres what our lanes need
    statement: str | None = None  # what may keep a lane's batch in Postgres, in words
    lock_is_waited_for: bool = False  # for certain: otherwise it is what a lane that does not get on waits for


class Classification(NamedTuple):
    """A status, and why, in words with numbers."""

    status: Status
    reason: str


class StatusChange(NamedTuple):
    """When a partition came to a status, and why."""

    at: datetime
    status: Status
    reason: str


class Sample(NamedTuple):
    """One look at a partition. Offsets are those of the next record."""

    at: datetime
    committed: int | None
    end: int
    records: int  # unread: 0 also where nothing but markers of transactions is left


class Owner(NamedTuple):
    """The member of the group that has the partition."""

    id: str
    client: str
    host: str


@dataclass(frozen=True, slots=True)
class StatusLimits:
    """What a status takes, in seconds."""

    window_seconds: float = 30.0  # so long without a commit is stalled, so long without a gain is slow
    own_seconds: float = 4.0  # without a commit: a lane of ours, which commits with each turn, is stalled
    behind_seconds: float = 5.0  # a record that was unread for less is nobody's trouble
    held_seconds: float = 5.0  # transactions are open for a moment as a rule
    waiting_seconds: float = 1.0
    locked_seconds: float = 1.0  # that a lane does not get on while somebody's lock is in its way
    order_seconds: float = 1.0  # that a lane of ours waits for others at most: INMAIL_ORDER_SECONDS


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition as its group reads it. Offsets are those of the next record."""

    group: str
    topic: str
    partition: int
    committed: int | None  # None: the group never committed one here
    end: int
    records: int
    seconds: float  # age of the oldest unread record by broker time; 0 when there is none
    lost: int  # unread records that retention has taken
    held: int  # unread records that nobody can read before an open transaction of their producer's ends
    oldest: int = 0  # offset of the oldest record that retention has left
    status: Status = Status.OK
    reason: str = ""
    since: datetime | None = None  # when it came to this status, as far as was seen
    pace: float | None = None  # by how many records a second it gets less; below 0: more. None: not yet known
    eta_seconds: float | None = None  # until all is read at this pace; None: never, or not yet known
    owner: Owner | None = None
    misplaced: str = ""  # which sources sent it records of other partitions' accounts lately, in words

    @property
    def note(self) -> str:
        """What is to be said of it besides the numbers, in a few words; empty when nothing is."""
        notes = ["never committed"] if self.committed is None and self.status is not Status.EXPIRED else []
        if self.lost:
            notes.append(f"retention took {self.lost:,}")
        if self.held:
            notes.append(f"an open transaction holds {self.held:,} back")
        if self.misplaced:
            notes.append(self.misplaced)
        return ", ".join(notes)


_UNKNOWN_GROUP = (
    "Kafka knows no group of this name that committed anything: `inmail lag --all` shows those it knows, and"
    " `kafka-share-groups.sh` share groups"
)


@dataclass(frozen=True, slots=True)
class GroupLag:
    """A group's partitions of one topic, taken together."""

    group: str
    topic: str  # empty: the group has read none, and has none to read
    partitions: tuple[PartitionLag, ...]
    state: str = ""  # as its coordinator calls it: Stable, Empty, ...
    members: int | None = None  # of the group, over all its topics; None: its coordinator does not tell
    locks: tuple[LockHolder, ...] = ()  # of a group of ours: who keeps something locked in the ledger's database

    @property
    def is_ours(self) -> bool:
        """Whether the group is a worker's, of which the ledger's database tells more."""
        return self.group in TOPIC_OF_GROUP

    @property
    def is_unknown(self) -> bool:
        """Whether Kafka has no group of this name, or one that committed nothing."""
        return not self.topic

    @property
    def records(self) -> int:
        """Unread records in all partitions."""
        return sum(each.records for each in self.partitions)

    @property
    def held(self) -> int:
        """Unread records that open transactions of producers hold back, in all partitions."""
        return sum(each.held for each in self.partitions)

    @property
    def seconds(self) -> float:
        """Age of the oldest unread record of all partitions."""
        return max((each.seconds for each in self.partitions), default=0.0)

    @property
    def never_committed(self) -> bool:
        """Whether some partition was never started: no worker can open it."""
        return any(each.committed is None for each in self.partitions)

    @property
    def worst(self) -> PartitionLag | None:
        """The partition that stands worst: by its status, then by the age of what is unread."""
        return max(self.partitions, key=lambda each: (each.status.severity, each.seconds), default=None)

    @property
    def status(self) -> Status:
        """The status of the worst partition; of a group that has none, that it never committed."""
        return self.worst.status if self.worst else Status.NEVER_COMMITTED

    @property
    def reason(self) -> str:
        """Why it stands so."""
        return self.worst.reason if self.worst else _UNKNOWN_GROUP

    @property
    def eta_seconds(self) -> float | None:
        """When the last of its partitions will have read all; None where one never will, or it is not known."""
        found: Sequence[float | None] = [each.eta_seconds for each in self.partitions if each.records]
        return None if None in found else max((each for each in found if each is not None), default=0.0)

    def summary(self) -> dict[str, object]:
        """Return all of it for JSON, the totals first."""
        return {
            "group": self.group,
            "topic": self.topic,
            "records": self.records,
            "seconds": self.seconds,
            "status": self.status,
            "reason": self.reason,
            "eta_seconds": self.eta_seconds,
            "held": self.held,
            "never_committed": self.never_committed,
            "state": self.state,
            "members": self.members,
            "locks": [each.summary() for each in self.locks],
            "partitions": self.partitions,
        }
