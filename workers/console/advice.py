"""What each status of lag means and what to do about it, for the page: in short what docs/lag.md says."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from workers.ops.lag import Status

__all__ = ["ADVICE", "Advice"]


class Advice(NamedTuple):
    """The kind of a status, its meaning, and the advice for it."""

    kind: str  # ok, warning or failed: its shape and colour
    means: str
    do: str


ADVICE: Final[Mapping[Status, Advice]] = {
    Status.OK: Advice("ok", "all is read, or what is unread gets less", "nothing"),
    Status.WAITING: Advice(
        "warning",
        "the lane has a record and lets another lane of its number read up to its time first",
        "look at the group and partition that the reason names: its worker is away or behind",
    ),
    Status.SLOW: Advice(
        "warning",
        "offsets move, and what is unread does not get less",
        "start more workers, up to the number of partitions; their logs say what a batch costs",
    ),
    Status.REWOUND: Advice(
        "warning",
        "the offset went back, and has not come as far again",
        "nothing if Operations shows a rewind; else find who reset it: our workers decide nothing twice",
    ),
    Status.UNKNOWN: Advice("failed", "no broker leads the partition", "bring the broker back"),
    Status.HELD: Advice(
        "warning",
        "all is read that can be: an open transaction of a producer hides what comes next",
        "end that producer: the broker aborts after transaction.timeout.ms, or `kafka-transactions.sh abort` does",
    ),
    Status.STALLED: Advice(
        "failed",
        "its reader is in the group, and its offset does not move while records wait",
        "look at the owner's /readyz and log: it holds a batch that a server refuses, or hangs",
    ),
    Status.NEVER_COMMITTED: Advice(
        "failed",
        "the group has no offset here",
        "of our groups: run `inmail topics apply`; of another: look at who owns it",
    ),
    Status.EXPIRED: Advice(
        "failed",
        "the ledger has read the partition, and Kafka has lost the group's offset",
        "run `inmail topics apply`, which starts near the ledger's position; then start the workers",
    ),
    Status.STOPPED: Advice(
        "failed", "nobody reads the partition", "start its reader; of ours that is `inmail worker` and its name"
    ),
    Status.PAUSED: Advice(
        "failed",
        "the breaker ended the worker, or the lane holds a record of a time far ahead",
        "read the reason and the dead letters; mend the producer, the plans or the version, then start the worker; of a"
        " time far ahead, compare the clocks of broker and host, and use `inmail clock`",
    ),
    Status.HALTED: Advice(
        "failed",
        "a lane cannot continue by itself; the worker's other lanes continue",
        "do what the reason says: the lane checks every few seconds, and then continues",
    ),
    Status.BEYOND_BOOKS: Advice(
        "failed",
        "the group's offset is beyond the ledger's position: records were skipped",
        "check that INMAIL_DATABASE_URL is the right database; then set the offset back as the reason says",
    ),
    Status.BEYOND_END: Advice(
        "failed",
        "an offset is beyond the partition's end: records were lost, or the topic was created again",
        "of our groups: what the reason says; of another: have its owner set the offset",
    ),
    Status.RECREATED: Advice(
        "failed",
        "the topic was deleted and created again: the ledger has read the old topic",
        "run `inmail topics apply`: the workers then start from the new topic's oldest record",
    ),
}
