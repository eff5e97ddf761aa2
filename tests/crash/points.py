"""The matrix: the points at which a worker can be caught, the faults that can meet it there, and the order of a run."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from random import Random
from typing import NamedTuple

__all__ = ["JOBS", "POINTS", "SERVERS", "Cell", "Kind", "Phase", "Point", "Stage", "Trigger", "cells", "plan"]

JOBS = ("send", "billing", "expiry")


class Phase(StrEnum):
    """Where at a point a worker stands: nothing of the call has happened, or all of it and nothing after."""

    BEFORE = "before"
    AFTER = "after"


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


SERVERS = (Kind.BROKER, Kind.POSTGRES)  # one kill meets a worker of each job


class Trigger(StrEnum):
    """What has to happen for a worker to come to a point."""

    WORK = "work"  # nothing: each batch passes it
    JOIN = "join"  # a member joins: all lanes are closed and opened
    LEAVE = "leave"  # a member is told to stop
    SUCCEED = "succeed"  # somebody raises the lanes' epochs: they begin again
    RETENTION = "retention"  # what an owner stored and did not publish is gone from the input


class Point(NamedTuple):
    """One await of the lane's protocol."""

    name: str
    trigger: Trigger
    what: str
    jobs: Sequence[str] = JOBS


POINTS = {
    point.name: point
    for point in (
        Point("join", Trigger.JOIN, "the consumer starts and joins its group"),
        Point("assign", Trigger.JOIN, "the group assigns partitions"),
        Point("number", Trigger.JOIN, "the count of partitions that accounts are numbered by is read"),
        Point("known", Trigger.JOIN, "the lane's epoch is looked at"),
        Point("fence", Trigger.JOIN, "the two transactional producers start, which fences the last owner"),
        Point("epoch", Trigger.JOIN, "the lane's epoch is raised in Postgres, if it is still the same"),
        Point("topic", Trigger.JOIN, "the topic's id is asked for"),
        Point("committed", Trigger.JOIN, "the group's offset is asked for"),
        Point("oldest", Trigger.JOIN, "the partition's oldest offset is asked for"),
        Point("end", Trigger.JOIN, "the partition's end is asked for"),
        Point("resume", Trigger.JOIN, "the lane's row notes the topic's id, and that the lane is not halted"),
        Point("recall", Trigger.RETENTION, "what an earlier owner stored is read from the books"),
        Point("left", Trigger.RETENTION, "what an earlier owner left is published"),
        Point("seek", Trigger.JOIN, "the consumer seeks"),
        Point("fetch", Trigger.WORK, "the consumer is polled"),
        Point("take", Trigger.WORK, "the lane takes a batch from its inbox"),
        Point("ends", Trigger.WORK, "the ends of the other lanes' partitions are asked for"),
        Point("look", Trigger.WORK, "the other lanes' rows are read"),
        Point("wait", Trigger.WORK, "the lane's row tells the others with which time it waits for them"),
        Point("decode", Trigger.WORK, "the batch is decoded"),
        Point("acquire", Trigger.WORK, "a connection is taken from the pool"),
        Point("begin", Trigger.WORK, "the Postgres transaction begins"),
        Point("claim", Trigger.WORK, "the epoch is checked and the next offset noted"),
        Point("step", Trigger.WORK, "a step of a tick is booked", ("expiry",)),
        Point("call", Trigger.WORK, "the ledger is called"),
        Point("commit", Trigger.WORK, "the Postgres transaction commits"),
        Point("publish", Trigger.WORK, "the Kafka transaction begins"),
        Point("partitions", Trigger.WORK, "a result topic's partitions are asked for"),
        Point("delivery", Trigger.WORK, "a batch of results is handed to the producer"),
        Point("offsets", Trigger.WORK, "the offset joins the transaction; after: deliveries are awaited"),
        Point("confirm", Trigger.WORK, "the Kafka transaction commits"),
        Point("revoke", Trigger.JOIN, "the group takes partitions away"),
        Point("drain", Trigger.JOIN, "lanes finish what they hold"),
        Point("discard", Trigger.JOIN, "a lane's producers stop"),
        Point("unawaited", Trigger.JOIN, "the others are told not to wait for a lane that ends"),
        Point("rest", Trigger.SUCCEED, "a lane waits before it begins again"),
        Point("leave", Trigger.LEAVE, "the consumer leaves its group and stops"),
    )
}


class Cell(NamedTuple):
    """One fault to be: a kind of it, at a point, before or after, in a worker."""

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
