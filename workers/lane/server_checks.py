"""Periodic checks of a worker's servers: whether Kafka and Postgres serve, and whether the topics exist."""

import asyncio
from collections.abc import Callable
from typing import NoReturn
from uuid import UUID

import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from structlog.typing import FilteringBoundLogger

from infra.kafka.clients import NotSetUpError, committed_offsets, count_partitions
from infra.kafka.topic_ids import topic_ids
from infra.postgres import Pool
from infra.retry import SERVER_ERRORS, describe_error
from infra.settings import Settings
from infra.shards import SHARD_QUERY, Shard, shard_from_rows
from schemas.catalogue import BALANCES, INPUT_TOPICS
from workers.jobs.job import Job
from workers.lane.clients import Clients
from workers.lane.lock_watch import LockWatch
from workers.topology import topics_of

__all__ = ["check_topics", "watch_servers"]

_SERVERS_SECONDS = 5.0
# Where several servers hold the books: nobody works a number that was moved until the workers of its new server look.
_NUMBERS_SECONDS = 1.0


async def check_topics(admin: AIOKafkaAdminClient, settings: Settings) -> None:
    """Check that the topics of an installation are there, and that a worker can publish every account's balance.

    A balance is published to its account's partition by number. One that the topic lacks would fail, for ever, the
    Kafka transaction that the results are in. Results pick a partition of those that their topic has.

    Raises:
        NotSetUpError: when a topic does not exist, or that of balances has fewer partitions than an input topic.

    """
    counts = await count_partitions(admin, topics_of(settings))
    if BALANCES not in counts:
        return
    topic = max(INPUT_TOPICS, key=lambda each: counts[each])
    if counts[BALANCES] < counts[topic]:
        raise NotSetUpError(
            f"{BALANCES} has {counts[BALANCES]} partitions, {topic} has {counts[topic]}, and a balance needs its"
            f" account's: delete {BALANCES}, run `inmail topics apply`, start the workers, and run"
            " `inmail replay balances --all`"
        )


async def watch_servers(job: Job, settings: Settings, clients: Clients, see_topic: Callable[[UUID], None]) -> NoReturn:
    """Look whether Kafka and Postgres serve, also while there is nothing to do, and whether the topics are there.

    A topic may be deleted and created again between two looks: its offsets would be read on as if nothing had happened.
    So might those of a neighbour's topic, of which a lane would believe that all of it is read.
    And once the server holds other partition numbers than before, the worker asks its group for other partitions.

    Args:
        job: whose topic is read.
        settings: where the servers are.
        clients: what the lanes share.
        see_topic: takes the id that the topic has.

    Raises:
        NotSetUpError: once a topic is gone: aiokafka would go on without it, and say nothing.

    """
    log = structlog.get_logger("inmail.worker").bind(worker=job.group)
    coordinator = _Coordinator(job, clients)
    locks = LockWatch(settings, job.group, clients.health)
    gone = ""
    while True:
        await _rest(clients, log)
        trouble, shard = await _postgres(clients.pool)
        clients.health.serves("Postgres", trouble)
        clients.health.is_locked(None if trouble else await locks.trouble())
        _take_numbers(shard, clients, log)
        clients.health.serves("Kafka", await coordinator.trouble())
        if job.topic in (found := await _find_topic_ids(clients)):
            see_topic(found[job.topic])
            if not clients.consumer.partitions_for_topic(job.topic):
                clients.consumer.refresh_topics()
        if not (lacks_topic := await _lacks_topic(job, settings, clients)):
            gone = ""
        elif lacks_topic == gone:  # a broker that has just started may not know all
            raise NotSetUpError(gone)
        else:
            gone = lacks_topic
            log.warning("topic_not_seen", error=gone)


async def _rest(clients: Clients, log: FilteringBoundLogger) -> None:
    """Wait for the next look at the servers; meanwhile, of several, look what numbers the own one holds."""
    clock = asyncio.get_running_loop().time
    due = clock() + _SERVERS_SECONDS
    while not clients.assignor.shard.is_alone:
        await asyncio.sleep(min(_NUMBERS_SECONDS, due - clock()))
        if clock() >= due:
            return
        _, shard = await _postgres(clients.pool)
        _take_numbers(shard, clients, log)
    await asyncio.sleep(max(0.0, due - clock()))


def _take_numbers(shard: Shard | None, clients: Clients, log: FilteringBoundLogger) -> None:
    """Have the group learn what the server holds, where that is another thing than before."""
    if shard is not None and shard != clients.assignor.shard:
        log.warning("numbers_changed", server=str(shard.shard_id), numbers=_states(shard))
        clients.assignor.shard = shard
    if clients.assignor.has_news:
        clients.consumer.request_rejoin()


async def _postgres(pool: Pool) -> tuple[str | None, Shard | None]:
    """Return why the database does not take what is decided, and what it says that it holds, if it says so.

    A database whose connections are all at work takes it, and is asked the next time: nobody waits here for turns.
    """
    if not pool.get_idle_size() and pool.get_size() == pool.get_max_size():
        return None, None
    try:
        async with asyncio.timeout(_SERVERS_SECONDS), pool.acquire() as connection:
            rows = await connection.fetch(SHARD_QUERY)
    except SERVER_ERRORS as error:
        return describe_error(error), None
    return ("it is read-only" if rows[0]["is_read_only"] else None), shard_from_rows(rows)


def _states(shard: Shard) -> dict[str, list[int]]:
    """Return the numbers of which the server says something, by what it says."""
    states: dict[str, list[int]] = {}
    for number, said in sorted(shard.numbers.items()):
        states.setdefault(said.state.value, []).append(number)
    return states


class _Coordinator:
    """A group's coordinator, asked for an offset.

    A question under way is never cancelled: a connection that aiokafka is making then would stay behind, open.
    """

    def __init__(self, job: Job, clients: Clients) -> None:
        self._job = job
        self._clients = clients
        self._asking: asyncio.Task[object] | None = None

    async def trouble(self) -> str | None:
        """Return why it does not answer."""
        if self._asking is None:
            place = TopicPartition(self._job.topic, 0)
            self._asking = asyncio.create_task(committed_offsets(self._clients.admin, self._job.group, [place]))
        done, _ = await asyncio.wait([self._asking], timeout=_SERVERS_SECONDS)
        if not done:
            return "no answer"
        asked, self._asking = self._asking, None
        try:
            asked.result()
        except SERVER_ERRORS as error:
            return describe_error(error)
        return None


async def _find_topic_ids(clients: Clients) -> dict[str, UUID]:
    """Return the ids that the input topics have now, and note them; nothing where nobody says."""
    try:
        async with asyncio.timeout(_SERVERS_SECONDS):
            found = await topic_ids(clients.admin, INPUT_TOPICS)
    except SERVER_ERRORS:
        return {}
    clients.topic_ids.update(found)
    return found


async def _lacks_topic(job: Job, settings: Settings, clients: Clients) -> str:
    """Return which topic is gone. Asked only where something is wrong: it is a question about the whole cluster."""
    lanes = list(clients.health.lanes.values())
    if lanes and clients.consumer.partitions_for_topic(job.topic) and not any(lane.trouble for lane in lanes):
        return ""
    try:
        async with asyncio.timeout(_SERVERS_SECONDS):
            await check_topics(clients.admin, settings)
    except NotSetUpError as error:
        return str(error)
    except SERVER_ERRORS:
        return ""
    return ""
