"""The meaning of each lag status and the advice for it, as the page shows them: a summary of docs/lag.md."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from workers.ops.lag import Status

__all__ = ["ADVICE", "Advice"]


class Advice(NamedTuple):
    """The kind of a status, its meaning and what to do."""

    kind: str  # ok, warning or failed: selects the shape and colour
    means: str
    do: str


ADVICE: Final[Mapping[Status, Advice]] = {
    Status.OK: Advice("ok", "everything is read, or the lag falls", "nothing"),
    Status.WAITING: Advice(
        "warning",
        "the lane waits until another lane of its partition number has read up to the time of its next record",
        "check the group and partition that the reason names: its worker is absent or behind",
    ),
    Status.SLOW: Advice(
        "warning",
        "offsets move, but the lag does not fall",
        "start more workers, up to the number of partitions; the workers' logs show what a batch costs",
    ),
    Status.REWOUND: Advice(
        "warning",
        "the offset was set back, and has not reached its earlier position again",
        "nothing if Operations shows a rewind; otherwise find out who reset the offset: workers decide nothing twice",
    ),
    Status.UNKNOWN: Advice("failed", "no broker leads the partition", "restart the broker"),
    Status.HELD: Advice(
        "warning",
        "every visible record is read: a producer's open transaction hides the records after it",
        "end that producer: the broker aborts its transaction after transaction.timeout.ms, or use"
        " `kafka-transactions.sh abort`",
    ),
    Status.STALLED: Advice(
        "failed",
        "the consumer is connected, but the offset does not move while records wait",
        "check the owner's /readyz and log: it hangs, or a server refuses its batch",
    ),
    Status.LOCKED: Advice(
        "failed",
        "a session in Postgres keeps locked what the lane needs; the reason names it",
        "end that session's transaction where it runs, or as a superuser `select pg_terminate_backend(PID)`",
    ),
    Status.NEVER_COMMITTED: Advice(
        "failed",
        "the group has no committed offset in the partition",
        "for a group of ours, run `inmail topics apply`; for another group, ask its owner",
    ),
    Status.EXPIRED: Advice(
        "failed",
        "the ledger has read the partition, but Kafka has lost the group's offset",
        "run `inmail topics apply`, which sets the offset near the ledger's position; then start the workers",
    ),
    Status.STOPPED: Advice(
        "failed",
        "no consumer reads the partition",
        "start the consumer; for a group of ours, `inmail worker` and its name",
    ),
    Status.PAUSED: Advice(
        "failed",
        "the circuit breaker ended the worker, or the lane holds a record whose time is far ahead",
        "read the reason and the dead letters; fix the producer, the plans or the version, then start the worker; for a"
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
        "check that INMAIL_DATABASE_URL is the right database; then do what the reason says",
    ),
    Status.BEYOND_END: Advice(
        "failed",
        "an offset is beyond the partition's end: records were lost, or the topic was created again",
        "for a group of ours, do what the reason says; for another group, ask its owner to set the offset",
    ),
    Status.RECREATED: Advice(
        "failed",
        "the topic was deleted and created again: the ledger has read the old topic",
        "run `inmail topics apply`: the workers then start from the new topic's oldest record",
    ),
}
