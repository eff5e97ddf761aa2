"""The matrix: the points at which a worker can be caught, the faults that can meet it there, and the order of a run."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from random import Random
from typing import NamedTuple

__all__ = ["JOBS", "POINTS", "SERVERS", "Cell", "Kind", "Phase", "Point", "Stage", "Trigger", "cells", "plan"]

JOBS = ("send", "billing", "expiry")


class Phase(StrEnum):
    """Where at a point a worker stands: nothing of the call has happened, all of it and nothing after, or a part."""

    BEFORE = "before"
    AFTER = "after"
    WITHIN = "within"  # the call has asked, and does not hear the answer


class Kind(StrEnum):
    """What meets a worker that stands at a point."""

    KILLED = "worker killed"
    BROKER = "broker killed"
    POSTGRES = "Postgres killed"
    KAFKA_CUT = "Kafka cut"
    POSTGRES_CUT = "Postgres cut"
    FROZEN = "frozen, a zombie"
    REBALANCE = "rebalance"
    REFUSED = "results refused"  # by the broker, for a while; only a delivery can meet that
    CANCELLED = "opening cancelled"  # within a request of it, as its lanes are asked back


SERVERS = (Kind.BROKER, Kind.POSTGRES)  # one kill meets a worker of each job


class Trigger(StrEnum):
    """What has to happen for a worker to come to a point."""

    WORK = "work"  # nothing: each batch passes it
    BACKLOG = "backlog"  # more records at once than the lanes keep up with: they wait for one another
    JOIN = "join"  # a member joins: all lanes are given back and opened
    LEAVE = "leave"  # a member is told to stop
    SUCCEED = "succeed"  # somebody raises the lanes' epochs: their owner begins again
    DOUBT = "doubt"  # an owner is killed between its two commits: nobody knows whether what it stored is published
    RETENTION = "retention"  # what such an owner left is gone from the input as well


class Point(NamedTuple):
    """One await of the protocol by which an owner works its lanes."""

    name: str
    trigger: Trigger
    what: str
    jobs: Sequence[str] = JOBS


POINTS = {
    point.name: point
    for point in (
        Point("join", Trigger.JOIN, "the consumer starts and joins its group"),
        Point("start", Trigger.JOIN, "the owner's two transactional producers start"),
        Point("assign", Trigger.JOIN, "the group assigns partitions"),
        Point("known", Trigger.JOIN, "the lanes' rows are read: their last owners, and those owners' epochs"),
        Point("fence", Trigger.SUCCEED, "the last owners that have not given their lanes back are fenced in Kafka"),
        Point("epoch", Trigger.JOIN, "the lanes' epochs are raised in Postgres, if they are still the same"),
        Point("number", Trigger.JOIN, "the count of partitions that accounts are numbered by is read"),
        Point("topic", Trigger.JOIN, "the topic's id is asked for"),
        Point("committed", Trigger.JOIN, "the group's offsets are asked for"),
        Point("oldest", Trigger.JOIN, "the partitions' oldest offsets are asked for"),
        Point("end", Trigger.JOIN, "the partitions' ends are asked for"),
        Point("owned", Trigger.JOIN, "the lanes' epochs are read once more"),
        Point("resume", Trigger.JOIN, "the lanes' rows note the topic's id, and that the lanes are not halted"),
        Point("search", Trigger.DOUBT, "it is looked for answers that may be published already"),
        Point("scan", Trigger.DOUBT, "a part of the result topics is read for that"),
        Point("recall", Trigger.RETENTION, "what an earlier owner stored is read from the books"),
        Point("left", Trigger.RETENTION, "what an earlier owner left is published"),
        Point("seek", Trigger.JOIN, "the consumer seeks"),
        Point("fetch", Trigger.WORK, "the consumer is polled"),
        Point("take", Trigger.WORK, "a turn takes what a lane has received"),
        Point("ends", Trigger.WORK, "the ends of the other lanes' partitions are asked for"),
        Point("look", Trigger.WORK, "the other lanes' rows are read"),
        Point("wait", Trigger.BACKLOG, "lanes' rows tell the others with which time they wait for them"),
        Point("decode", Trigger.WORK, "a lane's batch is decoded"),
        Point("acquire", Trigger.WORK, "a connection is taken from the pool"),
        Point("begin", Trigger.WORK, "the Postgres transaction begins"),
        Point("claim", Trigger.WORK, "the lanes' epochs are checked and their next offsets noted"),
        Point("step", Trigger.WORK, "a step of a tick is booked", ("expiry",)),
        Point("call", Trigger.WORK, "the ledger is called"),
        Point("commit", Trigger.WORK, "the Postgres transaction commits"),
        Point("gather", Trigger.WORK, "a turn waits for others, to be published with them", ("billing",)),
        Point("publish", Trigger.WORK, "the Kafka transaction begins"),
        Point("partitions", Trigger.WORK, "a result topic's partitions are asked for"),
        Point("delivery", Trigger.WORK, "a batch of results is handed to the producer"),
        Point("offsets", Trigger.WORK, "the offsets join the transaction; after: deliveries are awaited"),
        Point("confirm", Trigger.WORK, "the Kafka transaction commits"),
        Point("revoke", Trigger.JOIN, "the group takes partitions away"),
        Point("drain", Trigger.JOIN, "the owner finishes what it holds"),
        Point("release", Trigger.JOIN, "the lanes' rows are given back"),
        Point("rest", Trigger.SUCCEED, "the owner waits before it begins again"),
        Point("member", Trigger.SUCCEED, "the group's coordinator is asked whether the worker is a member still"),
        Point("discard", Trigger.SUCCEED, "the owner's producers stop"),
        Point("leave", Trigger.LEAVE, "the consumer leaves its group and stops"),
    )
}


# An opening is cancelled when its lanes are asked back; each of these asks a server. (`resume` does so but once.)
OPENING_REQUESTS = {
    "known",
    "member",
    "fence",
    "epoch",
    "number",
    "topic",
    "committed",
    "oldest",
    "end",
    "owned",
    "search",
    "scan",
    "recall",
}


class Cell(NamedTuple):
    """One fault to be: a kind of it, at a point, before the call, after it or within it, in a worker."""

    job: str
    point: str
    phase: Phase
    kind: Kind


class Stage(NamedTuple):
    """Faults one after another in each job; or, of a server, one that meets a worker of each."""

    server: Kind | None
    cells: dict[str, list[Cell]]  # by job


def cells(points: Sequence[str] = (), kinds: Sequence[Kind] = ()) -> Iterator[Cell]:
    """Yield every cell of the matrix, or those of some points and kinds."""
    for name in points or POINTS:
        for phase in Phase:
            for kind in kinds or Kind:
                if kind is Kind.REFUSED and name != "delivery":
                    continue
                if (phase is Phase.WITHIN) is not (kind is Kind.CANCELLED):
                    continue
                if kind is Kind.CANCELLED and name not in OPENING_REQUESTS:
                    continue
                if (name, phase, kind) == ("join", Phase.BEFORE, Kind.FROZEN):
                    continue  # no member yet: nobody would take anything over
                for job in POINTS[name].jobs:
                    yield Cell(job, name, phase, kind)


def plan(wanted: Sequence[Cell], faults: int, seed: int) -> list[Stage]:
    """Return so many faults in a random order: each wanted cell once before any comes again.

    A server's faults come in between the others, evenly.
    """
    dice = Random(seed)  # noqa: S311 - a workload
    drawn: list[Cell] = []
    while len(drawn) < faults:
        drawn += dice.sample(list(wanted), min(len(wanted), faults - len(drawn)))
    queues = {job: [cell for cell in drawn if cell.job == job and cell.kind not in SERVERS] for job in JOBS}
    stages = [
        Stage(kind, {job: [row[number]] for job, row in rows.items() if number < len(row)})
        for kind in SERVERS
        for rows in [{job: [cell for cell in drawn if cell.job == job and cell.kind is kind] for job in JOBS}]
        for number in range(max(map(len, rows.values())))
    ]
    dice.shuffle(stages)
    parts = len(stages) or 1
    ordered = []
    for number in range(parts):
        share = {job: row[number * len(row) // parts : (number + 1) * len(row) // parts] for job, row in queues.items()}
        ordered += [Stage(None, share), *stages[number : number + 1]]
    return ordered
