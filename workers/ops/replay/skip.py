"""Skips records that a lane can not decide, or is not to: the lane goes on from an offset, without those before it.

Two losses take it, and no worker accepts either by itself: retention removed records that were never decided, or the
ledger's database was restored from a backup of before them. A record that its worker can still read and nobody has
answered is never skipped.

Workers may run: the lane's epoch is raised with its row, so that its owner begins again from there. Of several servers,
all that hold one of the partitions have to answer. The lanes of each are moved at once, one server after the other, and
the operation is noted on that of INMAIL_DATABASE_URL. If the process is killed between two servers, the same command
plans the lanes that are left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from infra.kafka.clients import admin_client
from infra.kafka.topic_ids import topic_ids
from infra.postgres import Connection
from infra.settings import Settings
from workers.ledger.model import WorkerName
from workers.ops.books.shards import naming_server, server_name
from workers.ops.books.snapshot import open_books
from workers.ops.books.whole_books import check_whole_books
from workers.ops.numbers import ServerNumbers, names_by_number, open_of_operation, servers_of_numbers
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation
from workers.ops.replay.rewind_target import PartitionState, read_partition_states
from workers.topology import GROUP_OF, TOPIC_OF

__all__ = ["VERB", "SkipPlan", "SkippedLane", "plan_skip", "skip"]

VERB = "skip"

_TOPIC_IDS = "select partition, topic_id from lanes where consumer_group = $1 and topic = $2"
_SKIP = """
update lanes
set next_offset = $5, epoch = epoch + 1, head = null, held = null, halted = null,
    owner_epoch = case owner_epoch when epoch then epoch + 1 else owner_epoch end
where consumer_group = $1 and topic = $2 and partition = $3 and coalesce(next_offset, 0) = $4
"""


class SkippedLane(NamedTuple):
    """The offsets that one lane would skip: records, and markers of transactions."""

    partition: int
    stored: int  # the first of them: outcomes are stored up to here
    target: int  # the one after the last of them
    gone: int  # of them no longer in Kafka
    left: int  # of them still in Kafka: after a rewind the worker would decide them
    answered: int  # of them, those that were answered: what was decided of them is not in the ledger's database

    def summary(self) -> dict[str, int]:
        """Return it for JSON."""
        return dict(zip(("partition", "from", "to", *self._fields[3:]), self, strict=True))


@dataclass(frozen=True, slots=True)
class SkipPlan:
    """What skipping would do, lane by lane."""

    worker: WorkerName
    lanes: tuple[SkippedLane, ...]
    servers: tuple[ServerNumbers, ...]  # that hold the partitions

    @property
    def server_of(self) -> Mapping[int, str]:
        """The name of the server of each partition; empty where there is one server."""
        return names_by_number(self.servers)

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        plan = {"worker": self.worker.value, "lanes": [each.summary() for each in self.lanes]}
        if not self.server_of:
            return plan
        return plan | {"servers": [{"server": server_name(server), "numbers": list(of)} for server, of in self.servers]}


async def plan_skip(
    settings: Settings, worker: WorkerName, to_offset: int | None = None, partitions: Sequence[int] = ()
) -> SkipPlan:
    """Return what skipping would do, without doing it.

    Args:
        settings: where Kafka and Postgres are.
        worker: whose lanes.
        to_offset: where they go on; None: each at the oldest record that is left, and only where records before it are
            lost to the lane.
        partitions: which; all unless given.

    Raises:
        RefusedError: when records would be skipped that the worker reads by itself, no worker has opened a lane yet, or
            the topic was created again.
        NotSetUpError: when the topics or the tables do not exist.
        PartOfBooksError: when the only server that is named holds some of the numbers.
        NotHeldError, ServerError: of several servers, as `servers_of_numbers` raises them.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    await check_whole_books(settings)
    topic = TOPIC_OF[worker]
    servers = await servers_of_numbers(settings, partitions)
    async with admin_client(settings) as admin:
        topic_id = (await topic_ids(admin, [topic])).get(topic)
    lanes: list[SkippedLane] = []
    for server, numbers in servers:
        with naming_server(server):
            async with open_books(server) as connection:
                places = await read_partition_states(server, connection, worker, numbers)
                rows = await connection.fetch(_TOPIC_IDS, GROUP_OF[topic], topic)
        known = {row["partition"]: row["topic_id"] for row in rows}
        for place in places.values():
            target = _lost_up_to(place) if to_offset is None else to_offset
            if target > place.stored:
                _check(place, target, worker)
                _check_topic(place.partition, known, topic, topic_id)
                lanes.append(_skipped(place, target))
    return SkipPlan(worker, tuple(sorted(lanes)), tuple(servers))


def _lost_up_to(place: PartitionState) -> int:
    """Return up to where records are lost to a lane; one that has stored nothing begins at the oldest record."""
    return place.oldest if place.stored or place.committed_offset < place.oldest else 0


def _check(place: PartitionState, target: int, worker: WorkerName) -> None:
    """Refuse to skip what nobody has answered and the worker can read."""
    furthest = max(place.oldest, min(place.committed_offset, place.end))
    if target > furthest:
        raise RefusedError(
            f"partition {place.partition}: {target} is beyond {furthest}, up to where records are gone from Kafka or"
            f" were answered; those from there on `inmail worker {worker.value}` reads by itself"
        )


def _check_topic(partition: int, known: Mapping[int, UUID | None], topic: str, topic_id: UUID | None) -> None:
    if partition not in known:
        raise RefusedError(
            f"partition {partition}: no worker has opened this lane with this database yet. Start one: it says whether"
            " the lane can go on"
        )
    if known[partition] not in (None, topic_id):
        raise RefusedError(
            f"{topic} was deleted and created again, and the offsets of partition {partition} are of the topic before:"
            " run `inmail topics apply`"
        )


def _skipped(place: PartitionState, target: int) -> SkippedLane:
    gone = max(0, min(target, place.oldest) - place.stored)
    answered = max(0, min(target, place.committed_offset) - place.stored)
    return SkippedLane(place.partition, place.stored, target, gone, target - place.stored - gone, answered)


async def skip(settings: Settings, plan: SkipPlan, who: Operator) -> OngoingOperation:
    """Let lanes go on as planned, those of each server at once, on record; return the operation.

    Raises:
        RefusedError: when another one is under way, or a lane has moved since the plan was made.
        NotHeldError: when a number is on its way to another server.
        ServerError: when one of several servers does not answer; the lanes of those before it have moved.
        OSError, asyncpg.PostgresError: when the ledger's database cannot be reached or refuses.

    """
    numbers = [each.partition for each in plan.lanes]
    arguments = {"worker": plan.worker.value, "to": {str(each.partition): each.target for each in plan.lanes}}
    with naming_server(settings):
        async with recorded_operation(settings, Intent(VERB, *who, arguments, plan.summary())) as operation:
            operation.result["lanes"] = 0
            for server, held in await servers_of_numbers(settings, numbers) if numbers else ():
                lanes = [each for each in plan.lanes if each.partition in held]
                with naming_server(server):
                    async with open_of_operation(settings, server, operation, VERB) as connection:
                        await _skip(connection, TOPIC_OF[plan.worker], lanes)
                operation.result["lanes"] += len(lanes)
    return operation


async def _skip(connection: Connection, topic: str, lanes: Sequence[SkippedLane]) -> None:
    async with connection.transaction():
        for lane in lanes:
            place = GROUP_OF[topic], topic, lane.partition
            if await connection.execute(_SKIP, *place, lane.stored, lane.target) != "UPDATE 1":
                raise RefusedError(f"lane {topic}/{lane.partition} has moved since the plan was made: look again")
