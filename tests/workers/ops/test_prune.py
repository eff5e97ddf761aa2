"""`inmail prune`: answers to ticks go once nothing can ask for them any more, and nothing else does."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from infra.kafka.clients import admin_client, create_producer
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import CREDIT_EVENTS, EXPIRY_TICKS
from schemas.envelope import encode
from schemas.ticks import ExpiryTick
from tests.ledger.book import DAY, Book
from tests.workers.life import in_partition
from tests.workers.replaying import ME
from tests.workers.two_servers import TwoServers
from tests.workers.wire import ends, read, working
from workers.jobs.expiry import ExpiryJob
from workers.ledger.plans import load_catalogue
from workers.ops import prune as pruning
from workers.ops.books.audit import audit
from workers.ops.operations import RefusedError
from workers.ops.prune import PrunePlan, plan_prune, prune

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
PLACE = TopicPartition(EXPIRY_TICKS, 0)
ENDED = """
with l as (update lanes set topic_since = '2026-01-31 12:04Z', topic_id = gen_random_uuid() returning topic_id)
insert into ended_topics (consumer_group, topic, partition, as_of, topic_id, next_offset, ended_at)
select 'inmail-expiry', 'inmail.expiry-ticks', 0, '2026-01-31 12:04Z', {}, 5, now() from l
"""
SET_BACK = """;
insert into clock_set_backs
values ('inmail-expiry', 'inmail.expiry-ticks', 0, 0, '2026-01-31 12:10Z', '2026-01-31 11:59Z')
"""
UNPUBLISHED_TOPIC = """
insert into ended_topics values ('inmail-expiry', 'inmail.expiry-ticks', 0, '2026-01-31 12:04Z', null, 5, 3, now())
"""


async def _publish(settings: Settings, count: int) -> list[UUID]:
    """Publish ticks to partition 0; return their ids."""
    ids = [uuid4() for _ in range(count)]
    async with create_producer(settings, "test") as producer:
        for each in ids:
            now = datetime.now(UTC)
            tick = ExpiryTick.create(id=each, source="/test", time=now, data={"as_of": now})
            await producer.send_and_wait(EXPIRY_TICKS, encode(tick), partition=0)
    return ids


async def test_ticks_go_that_booked_nothing_and_that_retention_has_taken(
    cluster: Settings, database: Connection
) -> None:
    """One that booked stays, since the audit finds it by its rows; so does the newest, and what Kafka has still."""
    job, start = ExpiryJob(load_catalogue(), cluster), await ends(cluster, CREDIT_EVENTS)
    async with working(cluster, job):
        ids = await _publish(cluster, 2)
        await read(cluster, start, 2)
        book = Book(database)
        book.now = datetime.now(UTC) - 91 * DAY
        await book.decide(book.promotion(1, in_partition(cluster, 0)))
        ids += await _publish(cluster, 1)
        await read(cluster, start, 5)  # beside the answer, that the credit has ended, and that none is left
        ids += await _publish(cluster, 2)
        await read(cluster, start, 7)
    end = (await ends(cluster, EXPIRY_TICKS))[PLACE]
    async with admin_client(cluster) as admin:
        await admin.delete_records({PLACE: RecordsToDelete(before_offset=end - 1)})

    before = (await audit(cluster)).findings
    plan = await plan_prune(cluster)
    done = await prune(cluster, plan, who=ME, stop=asyncio.Event())

    left = [row["request_id"] for row in await database.fetch("select request_id from ticks order by source_offset")]
    assert (2, 5, 2) == (plan.ticks, plan.stored, done.result["deleted"])
    assert ids[2:] == left
    assert before == (await audit(cluster)).findings
    assert 0 == (await plan_prune(cluster)).ticks


async def _books(database: Connection, count: int = 6, partition: int = 0) -> None:
    """A lane that has published the answers to so many ticks, which booked nothing, at the offsets from 0 on."""
    await database.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset, published, as_of, topic_since)"
        " values ('inmail-expiry', $1, $4, 1, $2, $2, $3, '-infinity')",
        EXPIRY_TICKS,
        count,
        NOW + timedelta(minutes=count),
        partition,
    )
    await database.executemany(
        "insert into ticks (partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits,"
        " complete, steps) values ($4, $1, 1, 'booked', $2, $3, $3, 0, 0, true, 1)",
        [(uuid4(), offset, NOW + timedelta(minutes=offset), partition) for offset in range(count)],
    )


async def _left(database: Connection) -> list[int]:
    return [row[0] for row in await database.fetch("select source_offset from ticks order by 1")]


async def test_copies_that_a_move_has_left_are_not_counted(
    servers: TwoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Number 3 is the second server's; what the first has of it is deleted by the move, or by nobody.

    Its lane there was of another topic: nobody will ever bring that row up to date.
    """

    async def read_topic(_: Settings) -> tuple[dict[int, int], UUID]:
        return {0: 0, 3: 4}, uuid4()

    for connection in (servers.first, servers.second):
        await _books(connection, partition=3)
        await connection.execute("update lanes set topic_id = null")
    await servers.first.execute("update lanes set topic_id = gen_random_uuid()")
    monkeypatch.setattr(pruning, "_read_topic", read_topic)

    plan = await plan_prune(servers.both)
    done = await prune(servers.both, plan, who=ME, stop=asyncio.Event())

    assert (3, 6, 3) == (plan.ticks, plan.stored, done.result["deleted"])
    assert (6, [3, 4, 5]) == (len(await _left(servers.first)), await _left(servers.second))


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("update lanes set published = published", [3, 4, 5]),  # the newest of what retention has taken, and the rest
        ("update lanes set published = 2", [1, 2, 3, 4, 5]),
        ("update lanes set published = null", [0, 1, 2, 3, 4, 5]),
        ("update ticks set code = 'booking' where source_offset = 1", [1, 3, 4, 5]),
        (ENDED.format("gen_random_uuid()"), [5]),  # the rest were in a topic that is gone
        (ENDED.format("topic_id"), [3, 4, 5]),  # the records of offsets 4 and 5 are there
        (UNPUBLISHED_TOPIC, [0, 1, 2, 3, 4, 5]),
        (ENDED.format("gen_random_uuid()") + SET_BACK, [3, 4, 5]),  # all may be of the topic since
        ("delete from lanes", [0, 1, 2, 3, 4, 5]),
    ],
    ids=[
        "all published",
        "published in part",
        "nothing known to be published",
        "a tick with steps left",
        "a topic made anew",
        "a topic that lost records at its end",
        "answers of an ended topic unpublished",
        "a topic made anew, and then the clock set back",
        "no lane",
    ],
)
async def test_what_may_still_be_asked_for_stays(
    settings: Settings, database: Connection, change: str, left: list[int]
) -> None:
    """Retention has taken the records up to offset 4."""
    await _books(database)
    await database.execute(change)

    topic_id = await database.fetchval("select topic_id from lanes") or uuid4()
    await prune(settings, PrunePlan(6, 6, topic_id, {0: 4}), who=ME, stop=asyncio.Event())

    assert left == await _left(database)


async def test_an_old_request_gets_its_first_answer_after_a_prune(settings: Settings, database: Connection) -> None:
    """A send's outcome is in the journal, of which a prune deletes nothing."""
    await _books(database)
    book = Book(database)
    request = book.send()
    await book.one(book.promotion(2))
    first = await book.one(request)

    done = await prune(settings, PrunePlan(6, 6, uuid4(), {0: 4}), who=ME, stop=asyncio.Event())

    assert (3, "charged", False) == (done.result["deleted"], first["code"], first["repeat"])
    assert first | {"repeat": True} == await book.one(request)
    assert 1 == await database.fetchval("select sum(remaining) from lots")


async def test_a_run_that_was_stopped_goes_on(
    settings: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops between two steps, with what it has done on record."""
    monkeypatch.setattr(pruning, "_STEP", 2)
    await _books(database, 10)
    plan, stop = PrunePlan(7, 10, uuid4(), {0: 8}), asyncio.Event()

    first = await prune(settings, plan, who=ME, stop=stop, progress=lambda _: stop.set())
    after = await _left(database)
    rest = await prune(settings, plan, who=ME, stop=asyncio.Event())

    assert (True, 2, [2, 3, 4, 5, 6, 7, 8, 9]) == (first.stopped, first.result["deleted"], after)
    assert (False, 5, [7, 8, 9]) == (rest.stopped, rest.result["deleted"], await _left(database))


async def test_a_plan_of_a_topic_that_was_made_anew_since_deletes_nothing(
    settings: Settings, database: Connection
) -> None:
    """The oldest offsets are those of the topic before; the lane reads the new one, whose records are all there."""
    await _books(database)
    await database.execute("update lanes set topic_id = gen_random_uuid()")

    done = await prune(settings, PrunePlan(6, 6, uuid4(), {0: 4}), who=ME, stop=asyncio.Event())

    assert (0, [0, 1, 2, 3, 4, 5]) == (done.result["deleted"], await _left(database))


async def test_a_topic_that_was_made_anew_and_not_read_yet_is_refused(cluster: Settings, database: Connection) -> None:
    """Its offsets would be taken for those of the topic that the books have read."""
    await database.execute("update lanes set topic_id = gen_random_uuid() where topic = $1", EXPIRY_TICKS)

    with pytest.raises(RefusedError, match="run `inmail topics apply`"):
        await plan_prune(cluster)
