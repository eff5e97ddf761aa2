"""Two Postgres servers hold the books of one Kafka: each one's workers decide the numbers that it holds."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import NamedTuple
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiokafka import TopicPartition
from pydantic import SecretStr

from infra.kafka.clients import create_producer
from infra.postgres import Connection, create_pool
from infra.settings import Settings
from infra.shards import Shard
from schemas.catalogue import DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import Event, encode
from tests.workers.lane.test_lane_succession import _owning
from tests.workers.lane.test_rolling_change import TAKE
from tests.workers.life import Life, in_partition, living, once_each
from tests.workers.ops.dead_letters.test_redrive import back
from tests.workers.wire import ends, eventually, publish, read, send, set_offset
from workers.jobs.send import SendJob
from workers.lane import server_checks, turn, worker
from workers.lane.lane_rows import LaneRow, LaneRows

_FIRST_KEY = 2**40  # of the keys that the second server makes


class _Servers(NamedTuple):
    """The first server, and a second one that holds some of the numbers."""

    a: Settings
    b: Settings
    books_a: Connection
    books_b: Connection
    ids: tuple[UUID, UUID]


@pytest.fixture
async def servers(
    cluster: Settings,
    database: Connection,
    other_books: Callable[[], Awaitable[Settings]],
    connect: Callable[[Settings], Awaitable[Connection]],
    monkeypatch: pytest.MonkeyPatch,
) -> _Servers:
    """Numbers 0 and 1 on the first server, 2 and 3 on the second, which is set up as `inmail shards add` would."""
    monkeypatch.setattr(server_checks, "_SERVERS_SECONDS", 60)  # numbers are looked at in between
    monkeypatch.setattr(server_checks, "_NUMBERS_SECONDS", 0.2)
    other = await other_books()
    second = await connect(other)
    await second.execute("update shard set shard_id = gen_random_uuid(), ordinal = 1, holds_all = false")
    await second.execute(f"alter table accounts alter column account restart with {_FIRST_KEY}")
    await second.execute("insert into partitioning (partitions) values ($1)", cluster.topic_partitions)
    ids = await database.fetchval("select shard_id from shard"), await second.fetchval("select shard_id from shard")
    for number in range(2, cluster.topic_partitions):
        await database.execute("insert into shard_numbers values ($1, 'left', $2, $3)", number, ids[1], uuid4())
        await second.execute("insert into shard_numbers values ($1, 'held')", number)
        await _copy(database, second, "lanes", f"partition = {number}")
    return _Servers(cluster, other, database, second, ids)


async def _copy(source: Connection, target: Connection, table: str, condition: str) -> None:
    rows = await source.fetchval(f"select jsonb_agg(to_jsonb(t)) from {table} as t where {condition}")  # noqa: S608
    await target.execute(
        f"insert into {table} overriding system value select * from jsonb_populate_recordset(null::{table}, $1)",  # noqa: S608
        rows or [],
    )


async def _begin_to_move(servers: _Servers, number: int) -> UUID:
    """Say on both servers that a number is on its way, and fence its lanes, as a move does."""
    move = uuid4()
    await servers.books_b.execute(
        "insert into shard_numbers values ($1, 'arriving', $2, $3)", number, servers.ids[0], move
    )
    async with servers.books_a.transaction():
        await servers.books_a.execute(
            "update lanes set epoch = epoch + 1, owner_epoch = epoch + 1 where partition = $1", number
        )
        await servers.books_a.execute(
            "insert into shard_numbers values ($1, 'leaving', $2, $3)", number, servers.ids[1], move
        )
    return move


async def _end_move(servers: _Servers, number: int) -> None:
    await _copy(servers.books_a, servers.books_b, "accounts", f"partition = {number}")
    accounts = await servers.books_a.fetchval("select array_agg(account) from accounts where partition = $1", number)
    await _copy(servers.books_a, servers.books_b, "journal", f"account = any('{{{','.join(map(str, accounts))}}}')")
    await _copy(servers.books_a, servers.books_b, "lanes", f"partition = {number}")
    await servers.books_a.execute("update shard_numbers set state = 'left' where number = $1", number)
    await servers.books_b.execute(
        "update shard_numbers set state = 'held', other_shard = null where number = $1", number
    )


async def _work(life: Life, *numbers: int) -> None:
    async def does() -> bool:
        if life.task.done():
            life.task.result()
        lanes = life.worker.membership.lanes if life.worker.membership else {}
        return (
            {place.partition for place, lane in lanes.items() if lane.is_open}
            == {*numbers}
            == {place.partition for place in lanes}
        )

    await eventually(does, f"works {numbers}, and not {life.health.not_ready()}")


async def _accounts(books: Connection) -> set[str]:
    return set(await books.fetchval("select coalesce(array_agg(account_id::text), '{}') from accounts"))


async def test_each_server_decides_its_numbers_and_a_number_that_moves_goes_on_where_it_stopped(
    servers: _Servers,
) -> None:
    """No send is lost or decided twice, also of those that come in while nobody holds the number.

    The account's events have no gap, and both servers' other lanes go on meanwhile.
    """
    start = await ends(servers.a, SEND_RESULTS)
    accounts = [in_partition(servers.a, number) for number in range(servers.a.topic_partitions)]
    sent: list[Event] = []

    async def send_each(*numbers: int) -> None:
        batch = [send(accounts[number]) for number in numbers]
        await publish(servers.a, SEND_REQUESTS, batch)
        sent.extend(batch)

    async with living(servers.a) as a, living(servers.b) as b:
        await _work(a, 0, 1)
        await _work(b, 2, 3)
        await send_each(0, 1, 2, 3)
        await read(servers.a, start, len(sent))
        assert {accounts[0], accounts[1]} == await _accounts(servers.books_a)

        await _begin_to_move(servers, 1)
        await send_each(0, 1, 2, 3)
        await _work(a, 0)
        await read(servers.a, start, len(sent) - 1)  # all but that of number 1
        await _end_move(servers, 1)
        await _work(b, 1, 2, 3)
        await send_each(1, 1)
        answers = await read(servers.a, start, len(sent))

    assert once_each(sent, answers)
    sequences = sorted(answer["sequence"] for answer in answers if answer["account"] == accounts[1])
    assert sequences == [1, 2, 3, 4]
    assert {accounts[1], accounts[2], accounts[3]} == await _accounts(servers.books_b)
    assert 1 == await servers.books_a.fetchval(
        "select count(*) from journal join accounts using (account) where account_id = $1", accounts[1]
    )


async def test_a_record_on_a_partition_of_another_server_is_a_dead_letter_and_is_sent_to_its_own(
    servers: _Servers,
) -> None:
    """It waits for no lane of the other server's, moves nothing where it came in, and is decided after a redrive."""
    account = in_partition(servers.a, 3)
    results, letters = await ends(servers.a, SEND_RESULTS), await ends(servers.a, DEAD_LETTERS)
    await publish(servers.a, SEND_REQUESTS, [send(in_partition(servers.a, 3))])  # unread, for a worker that would wait
    request = send(account)
    async with create_producer(servers.a, "test") as producer:
        await producer.send_and_wait(SEND_REQUESTS, encode(request), account.encode(), partition=0)
    async with living(servers.a):
        (letter,) = await read(servers.a, letters, 1)
    assert "wrong_partition" == letter["reason"]
    assert "the account's number is 3, which another server holds" in letter["error"]
    assert set() == await _accounts(servers.books_a)
    assert 0 == await servers.books_a.fetchval("select count(*) from decided_ahead")

    urls = " ".join(each.database_url.get_secret_value() for each in (servers.a, servers.b))
    async with living(servers.b):
        await back(servers.a.model_copy(update={"database_shards": SecretStr(urls)}), account)
        answers = await read(servers.a, results, 2)

    assert str(request.id) in {answer["request_id"] for answer in answers}
    assert account in await _accounts(servers.books_b)


async def test_a_lane_that_is_assigned_wrongly_fences_nobody_and_leaves_its_row_alone(
    servers: _Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane's last owner works other lanes still, and a move copies the row as it is."""
    fenced: set[str] = set()
    fence = turn.fence_producers

    async def see(settings: Settings, names: set[str]) -> None:
        fenced.update(names)
        await fence(settings, names)

    monkeypatch.setattr(turn, "fence_producers", see)
    await servers.books_a.execute("update lanes set owner = 'inmail-send.last', owner_epoch = epoch")
    before = await servers.books_a.fetchval(
        "select to_jsonb(l) from lanes as l where partition = 3 and topic = $1", SEND_REQUESTS
    )
    async with _owning(servers.a, TopicPartition(SEND_REQUESTS, 3), "stale") as (_, lane):

        async def is_halted() -> bool:
            return lane.row.halted is not None

        await eventually(is_halted, "halted")
        assert "number 3 is held by another server" in (lane.health.trouble or "")
        assert not lane.is_open
        assert set() == fenced

    after = await servers.books_a.fetchval(
        "select to_jsonb(l) from lanes as l where partition = 3 and topic = $1", SEND_REQUESTS
    )
    assert before == after


async def test_a_worker_that_is_given_a_number_by_mistake_says_so_and_goes_on_with_its_others(
    servers: _Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a member that does not know yet that numbers have left."""
    stale = Shard(servers.ids[0], 0, holds_all=True)
    monkeypatch.setattr(worker, "read_shard", AsyncMock(return_value=stale))
    start = await ends(servers.a, SEND_RESULTS)
    requests = [send(in_partition(servers.a, number)) for number in range(servers.a.topic_partitions)]
    await publish(servers.a, SEND_REQUESTS, requests)
    async with living(servers.a) as a:
        await a.not_ready("number 3 is held by another server")
        answers = await read(servers.a, start, 2)

    assert once_each(requests[:2], answers)


@pytest.mark.parametrize("state", [None, "left", "leaving", "arriving", "held"])
async def test_a_worker_of_0_1_0_takes_no_lane_of_another_server(
    settings: Settings, database: Connection, state: str | None
) -> None:
    """It knows nothing of servers. Were it alone in its group, it would answer for accounts that are elsewhere."""
    await _set(database, 7, state)
    async with create_pool(settings) as pool:
        if state == "held":
            assert 1 == await pool.fetchval(TAKE, SendJob.group, SEND_REQUESTS, 7, None, 0)
            return
        with pytest.raises(asyncpg.SerializationError, match="another server holds number 7: replace this worker"):
            await pool.fetchval(TAKE, SendJob.group, SEND_REQUESTS, 7, None, 0)


async def test_a_number_whose_lanes_were_not_copied_is_not_begun_at_kafka_s_offset(servers: _Servers) -> None:
    """The books know nothing of what was decided before: the lane is halted as in books that were restored."""
    place = TopicPartition(SEND_REQUESTS, 2)
    await publish(servers.a, SEND_REQUESTS, [send(in_partition(servers.a, 2))])
    await set_offset(servers.a, SendJob.group, place, (await ends(servers.a, SEND_REQUESTS))[place])
    await servers.books_b.execute("delete from lanes")
    async with living(servers.b) as b:
        await b.not_ready("but the books end at 0: is INMAIL_DATABASE_URL the right database")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            "left",
            "number 7 is held by another server, which it left this one for: it is gone since 2026-11-29 12:00:00 UTC",
        ),
        ("leaving", "number 7 is leaving this server since 2026-11-29 12:00:00 UTC"),
        ("arriving", "number 7 is arriving on this server since 2026-11-29 12:00:00 UTC"),
        (None, "this server does not hold number 7: run `inmail shards`"),
        ("held", None),
    ],
)
async def test_a_lane_is_acquired_only_where_its_number_is_held(
    settings: Settings, database: Connection, state: str | None, words: str | None
) -> None:
    """Why not is told as its row is read; a number that begins to leave after that is not acquired either."""
    async with create_pool(settings) as pool:
        rows, row, other = LaneRows(pool, SendJob.group, SEND_REQUESTS), LaneRow(7), LaneRow(8)
        await rows.read([row, other])
        await _set(database, 7, state)
        acquired = await rows.acquire([row, other], "inmail-send.owner")
        assert ([row] if words is None else []) == [each for each in acquired if each is row]
        assert (state is not None) == (other in acquired)  # a second server holds neither
        await rows.read([row])

    assert (words is None) == (row.not_held is None)
    assert (row.not_held or "").startswith(words or "")


async def _set(database: Connection, number: int, state: str | None) -> None:
    if state is None:
        await database.execute("update shard set ordinal = 1, holds_all = false")
        return
    other = None if state == "held" else uuid4()
    since = datetime(2026, 11, 29, 12, tzinfo=UTC)
    await database.execute(
        "insert into shard_numbers values ($1, $2, $3, $4, $5)", number, state, other, uuid4(), since
    )
