"""Where each of some lanes begins, and what an earlier owner left to publish: the end of opening them (`turn.py`)."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError, LeaderNotAvailableError, UnknownTopicOrPartitionError

from infra.kafka.clients import committed_offsets
from infra.kafka.topic_ids import topic_ids
from infra.kafka.transactions import Message, TransactionTimes
from infra.retry import LOCK_ERRORS, SERVER_ERRORS, describe_error, is_retriable
from infra.settings import Settings
from schemas.catalogue import INPUT_TOPICS
from workers.errors import FencedError, LaneError
from workers.jobs.job import Job, StoredRange
from workers.lane.clients import Clients
from workers.lane.ended_topics import EndedTopics
from workers.lane.lane import Lane, fail_lanes
from workers.lane.lane_rows import LaneRow, LaneRows
from workers.lane.numbering import agree_on_partitions
from workers.lane.readback import Doubt, PublishedAnswers, scan_published
from workers.lane.recovery import check_start, check_topic

__all__ = ["Opening", "split_by_last_owner"]

Transact = Callable[[Sequence[Message], Mapping[TopicPartition, int]], Awaitable[TransactionTimes]]
Begin = Callable[[Sequence[Lane], Coroutine[Any, Any, None]], None]


class _Start(NamedTuple):
    """From where a lane publishes, whence it can read, and which answers may be there all the same."""

    published: int
    oldest: int
    doubt: Doubt | None

    @property
    def is_gone(self) -> bool:
        """Whether retention has removed input whose answers may not be published."""
        return self.published < self.oldest


def split_by_last_owner(lanes: Iterable[Lane], name: str) -> list[tuple[set[str], list[Lane]]]:
    """Return in which parts to acquire and open lanes whose rows were read, and which owners to fence for each.

    Lanes that were given back are one part, and so are those of each owner that did not: none waits for what another
    owner has left. Workers of 0.1.0 named their producers after the lane: all that they left is one part, since there
    may be hundreds of names.

    Args:
        lanes: the lanes.
        name: of the owner that opens them. What it has already it need not fence.

    """
    parts: defaultdict[str | None, tuple[set[str], list[Lane]]] = defaultdict(lambda: (set(), []))
    for lane in lanes:
        # Beside the row's owner the name under which this worker had the lane: a failover may have lost that from it.
        names = [each for each in (lane.row.last_owner, lane.row.owner) if each not in (None, name)]
        last = next(iter(names), None)
        gone, part = parts["" if last and last.endswith(f".{lane.partition}") else last]
        part.append(lane)
        gone.update(names)
    return list(parts.values())


class Opening:
    """Opens lanes that their owner has acquired: committed offset, what lies before the row's, seek."""

    def __init__(self, job: Job, clients: Clients, rows: LaneRows, settings: Settings) -> None:
        self._job, self._rows, self._settings = job, rows, settings
        self._consumer, self._admin, self._pool = clients.consumer, clients.admin, clients.pool
        self._topic_ids, self._breaker = clients.topic_ids, clients.breaker
        self._ended = EndedTopics(settings, clients.pool, job, rows)
        self._log = structlog.get_logger("inmail.worker").bind(worker=job.group, topic=job.topic)

    async def check_membership(self) -> None:
        """Ask the group whether this worker is a member still.

        Raises:
            FencedError: when it is none.
            KafkaError: when nobody says.

        """
        if not await self._consumer.is_member():
            raise FencedError(f"this worker is no member of group {self._job.group} any more")

    async def read(self, lanes: list[Lane]) -> list[Lane]:
        """Read the rows of lanes; halt those whose number this server does not hold, and return the others.

        The rows here say nothing of that: a move copies them as they are, and operators see the other server's.
        """
        await self._rows.read([lane.row for lane in lanes])
        for lane in lanes:
            if lane.row.not_held is not None:
                lane.fail(LaneError(lane.row.not_held))
                lane.row.halted = lane.row.not_held  # it is logged once
        return [lane for lane in lanes if lane.row.not_held is None]

    async def acquire(self, lanes: Sequence[Lane], owner: str) -> list[Lane]:
        """Acquire lanes for an owner; return those that it has. One whose row somebody keeps locked fails alone.

        Raises:
            OSError, PostgresError: when the database does not answer.

        """
        acquired: list[LaneRow] = []

        async def acquire_alone(lane: Lane) -> None:
            acquired.extend(await self._rows.acquire([lane.row], owner))

        try:
            acquired += await self._rows.acquire([lane.row for lane in lanes], owner)
        except LOCK_ERRORS:
            await self._for_each(lanes, acquire_alone, LOCK_ERRORS)
        fenced = FencedError("another owner acquired it meanwhile")
        taken = [lane for lane in lanes if lane.row not in acquired and lane.open_at == 0]
        fail_lanes(dict.fromkeys(taken, fenced), self._log)
        return [lane for lane in lanes if lane.row in acquired]

    async def open(self, lanes: Sequence[Lane], transact: Transact, begin: Begin) -> None:
        """Open lanes together; one that cannot be opened fails alone.

        Args:
            lanes: acquired by their owner, which is at no turn of theirs.
            transact: publishes in a Kafka transaction of the owner's.
            begin: begins an opening of the owner's, of lanes that take longer than the others.

        Raises:
            KafkaError, OSError, PostgresError: when that is true of all of them.

        """
        partitions = self._consumer.partitions_for_topic(self._rows.topic)
        if partitions is None:  # a broker that has just started does not know its topics for a moment
            raise UnknownTopicOrPartitionError(f"there is no topic {self._rows.topic}")
        await self._for_each(lanes, lambda lane: self._prepare(lane, len(partitions), transact), LaneError)
        await self._for_each([lane for lane in lanes if lane.open_at == 0], self._require_leader)
        if not (lanes := [lane for lane in lanes if lane.open_at == 0]):
            return
        starts = await self._find_starts(lanes)
        await self._begin_all({lane: start for lane, start in starts.items() if start.doubt is None}, transact)
        # Whole topics may have to be read for the others: a lane that has failed meanwhile is opened again beside that.
        if doubtful := {lane: start for lane, start in starts.items() if start.doubt is not None}:
            begin(list(doubtful), self._begin_all(doubtful, transact))

    async def _prepare(self, lane: Lane, partitions: int, transact: Transact) -> None:
        await agree_on_partitions(self._pool, self._rows.topic, partitions)
        lane.partitions = partitions
        await lane.guard.open()
        await self._ended.publish(lane.row, lambda messages: transact(messages, {}), lane.health.steps)

    async def _require_leader(self, lane: Lane) -> None:
        if not self._consumer.has_leader(lane.place):
            self._consumer.refresh_topics()
            lane.health.steps()  # it is not stuck: a worker that is started again finds no leader either
            raise LeaderNotAvailableError(f"no broker leads {lane.place.topic}/{lane.place.partition}")

    async def _find_starts(self, lanes: Sequence[Lane]) -> dict[Lane, _Start]:
        """Return where lanes begin, all asked for together; those that cannot be believed fail."""
        places = [lane.place for lane in lanes]
        topic = self._rows.topic
        found = await topic_ids(self._admin, INPUT_TOPICS)  # the neighbours' as well: what their rows say is of a topic
        self._topic_ids.update(found)
        topic_id = found.get(topic)
        committed = await committed_offsets(self._admin, self._job.group, places)
        oldest = await self._consumer.beginning_offsets(places)
        ends = await self._consumer.end_offsets(places)
        # Were there a newer owner, the offset could be beyond what was stored when this one began.
        if not await self._rows.are_owned([lane.row for lane in lanes]):
            raise FencedError(f"a lane of {topic} has a newer owner")
        starts, not_believed, unsure = {}, {}, {}
        for lane in lanes:
            place, row, stored = lane.place, lane.row, lane.row.next_offset
            try:
                check_topic(place, topic_id, row.topic_id, stored)
                told, unsure_to, is_news = lane.check.resolve(
                    committed[place],
                    row.published,
                    row.maybe_published,
                    stored or 0,
                    ends[place],
                    doubted=row.doubted,
                )
                if is_news:
                    not_believed[lane.partition] = {"told": committed[place], "published": row.published}
                kept = (oldest[place], ends[place])
                published = check_start(self._job.group, place, told, stored, kept=kept)
            except (GroupCoordinatorNotAvailableError, UnknownTopicOrPartitionError) as error:
                unsure[lane] = error
            except (LaneError, *SERVER_ERRORS) as error:
                await self._fail(lane, error)
            else:
                is_noted = row.published is not None and published >= row.published
                doubt = None
                if unsure_to is not None:
                    doubt = Doubt(range(published, unsure_to), row.published_time if is_noted else None)
                row.doubted = None if doubt is None else committed[place]
                starts[lane] = _Start(published, oldest[place], doubt)
        if not_believed:
            self._log.warning("offset_not_believed", offsets=not_believed)
        fail_lanes(unsure, self._log)
        if starts:
            assert topic_id is not None  # noqa: S101 - checked with each
            await self._rows.resume([lane.row for lane in starts], topic_id)
        return starts

    async def _begin_all(self, starts: Mapping[Lane, _Start], transact: Transact) -> None:
        await self._look_for_answers(starts)
        gone = {lane.partition: (each.published, each.oldest) for lane, each in starts.items() if each.is_gone}
        if gone:
            self._log.warning("publishing_from_books", offsets=gone)
        await self._for_each(list(starts), lambda lane: self._begin(lane, starts[lane], transact))
        if opened := [lane.partition for lane in starts if lane.is_open]:
            self._log.info("lanes_open", partitions=opened)

    async def _look_for_answers(self, starts: Mapping[Lane, _Start]) -> None:
        """Look for answers of lanes that are not sure of them: for all at once, as whole topics are read."""
        doubts = {lane.place: start.doubt for lane, start in starts.items() if start.doubt is not None}

        def progress() -> None:
            for lane in starts:
                lane.health.steps()

        found = await scan_published(self._settings, doubts, progress) if doubts else {}
        self._log_doubts(starts, found)
        for lane, start in starts.items():
            row = lane.row
            lane.published_answers = found.get(lane.place)
            row.maybe_published = start.doubt and start.doubt.offsets.stop
            row.published = max(start.published, row.published or 0) if start.doubt else start.published

    def _log_doubts(self, starts: Mapping[Lane, _Start], found: Mapping[TopicPartition, PublishedAnswers]) -> None:
        """Log each doubt when it begins: a lane may be opened several times before it ends."""
        told = {}
        for lane, start in starts.items():
            if start.doubt is not None and not (lane.published_answers and lane.published_answers.is_of(start.doubt)):
                offsets = start.doubt.offsets
                told[lane.partition] = {"from": offsets.start, "to": offsets.stop, "found": found[lane.place].found}
        if told:  # what is found is not published again; what is not found will be, in the turns that follow
            self._log.info("answers_looked_for", answers=told)

    async def _begin(self, lane: Lane, start: _Start, transact: Transact) -> None:
        """Publish what an earlier owner left where the input is gone, and seek."""
        row = lane.row
        lane.as_of, lane.stored_at_start = row.as_of, row.next_offset or 0
        self._breaker.begin(lane.place, row.topic_id, row.topic_since)
        offset = max(start.published, start.oldest)
        if start.is_gone:
            await self._publish_from_books(lane, StoredRange(start.published, start.oldest, row.topic_since), transact)
        self._consumer.seek(lane.place, offset)
        lane.open(offset)

    async def _publish_from_books(self, lane: Lane, gone: StoredRange, transact: Transact) -> None:
        """Publish what is stored of records that are gone, in parts: after a rewind it may be days of them."""
        for part in gone.split(self._settings.batch_records):
            async with self._pool.acquire() as connection:
                messages = await self._job.replay_answers(connection, lane.partition, part)
            offsets = {lane.place: part.end}
            if lane.published_answers is not None:
                messages, offsets = lane.published_answers.drop_published(messages, offsets)
            times = await transact(messages, offsets)
            lane.note_published(part.end, times.received_at, is_committed=bool(offsets))
            lane.health.steps()

    async def _for_each(
        self,
        lanes: Sequence[Lane],
        act: Callable[[Lane], Awaitable[None]],
        of_one: type[Exception] | tuple[type[Exception], ...] = (LaneError, *SERVER_ERRORS),
    ) -> None:
        """Do something for each lane; let an error that is of one lane only fail that one."""
        for lane in lanes:
            try:
                await act(lane)
            except of_one as error:
                await self._fail(lane, error)

    async def _fail(self, lane: Lane, error: Exception) -> None:
        if not isinstance(error, LaneError) and not is_retriable(error):
            raise error
        lane.fail(error, quietly=lane.health.error == describe_error(error))  # said before, and it has not got on since
        if isinstance(error, LaneError):
            await self._rows.halt(lane.row, str(error))
