"""Operators' look-ups of one request read its rows alone: neither those of other accounts, nor a busy account's all."""

import re
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from infra.postgres import Connection
from schemas.catalogue import EXPIRY_TICKS, SEND_REQUESTS, fingerprint
from schemas.envelope import Event
from schemas.ticks import ExpiryTick
from tests.ledger.book import NEW_YEAR, Book
from workers.ledger.model import WorkerName
from workers.ops.books.audit import CHECKS
from workers.ops.books.audit_new import _LOOKUP_PLANS, _LOOKUPS
from workers.ops.dead_letters import history
from workers.ops.replay import rewind_target
from workers.ops.replay.rewind_target import NoTargetError, PartitionState
from workers.ops.trace import in_books

BUSY = 30_000  # rows of one account
SHARING = 2_000  # accounts that use one id
FEW = 20  # rows
# Whose number is that of the id, of four partitions.
_TICKS = """
insert into ticks (
    partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits, complete, steps
)
select n % 4, lpad(to_hex(n), 32, '0')::uuid, $2, 'booked', n, '2030-01-01Z', '2030-01-01Z', 0, 0, true, 1
from generate_series(1, $1) as n
"""


class SharedId:
    """Books in which many accounts used one id, twice with another body; `busy` is one of them."""

    def __init__(self, connection: Connection) -> None:
        """Take a connection to empty books."""
        self.book, self.id = Book(connection), uuid4()
        self.events: dict[str, list[Event]] = {}

    async def fill(self) -> None:
        """Book the requests, and the history of the busy account, of which the planner knows nothing."""
        await self.book.connection.execute("alter table journal set (autovacuum_enabled = false)")  # nor learns it
        names = [*(f"a-{number}" for number in range(SHARING)), "busy"]
        for name in names:
            self.events[name] = [self.book.send(name, id=self.id, recipient_id=each) for each in ("zoe", "carol")]
        for number in range(2):
            await self.book.decide_all(*(events[number] for events in self.events.values()))
        await self.book.connection.execute("vacuum analyze journal")
        await self.book.connection.execute("analyze accounts")
        await self.book.connection.execute(
            "insert into journal select (r).* from (select jsonb_populate_record(j, jsonb_build_object('sequence', n,"
            " 'request_id', gen_random_uuid(), 'source_offset', 100000 + n, 'code', 'insufficient_credits')) as r"
            " from journal as j join accounts as a using (account), generate_series(3, $1::integer) as n"
            " where a.account_id = 'busy' and j.sequence = 1) as more",
            BUSY,
        )
        await self.book.connection.execute("update accounts set sequence = $1 where account_id = 'busy'", BUSY)


@pytest.fixture(scope="module")
async def shared_id(shared: Connection) -> SharedId:
    """The books with the id that many accounts used. The tests only read them."""
    books = SharedId(shared)
    await books.fill()
    return books


async def _rows_read(connection: Connection) -> int:
    """Return how many rows of the journal this transaction has read so far."""
    return await connection.fetchval(
        "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'journal'"
    )


async def _count_rows(connection: Connection, ask: Callable[[], Awaitable[Any]]) -> tuple[Any, int]:
    async with connection.transaction():
        before = await _rows_read(connection)
        answer = await ask()
        return answer, await _rows_read(connection) - before


@pytest.mark.parametrize("account", ["a-1000", "busy"])
async def test_the_answer_to_a_dead_letter_is_found_by_its_request_and_account(
    shared_id: SharedId, account: str
) -> None:
    """Its final answer, and that to a conflict."""
    connection = shared_id.book.connection
    asked = [(SEND_REQUESTS, 0, event) for event in shared_id.events[account]]

    found, read = await _count_rows(connection, lambda: history.read_answers(connection, asked))

    assert ["insufficient_credits", "key_conflict"] == [each.code for each in found]
    assert read < FEW


@pytest.mark.parametrize("account", ["a-1000", "busy"])
async def test_a_traced_row_is_found_by_the_place_of_its_record(shared_id: SharedId, account: str) -> None:
    """Not by its account, of which the planner believes that it has few rows."""
    connection = shared_id.book.connection

    (found,), read = await _count_rows(connection, lambda: in_books.find_by_row(connection, account, 1))

    assert [(account, 1)] == [(name, entry.sequence) for name, entry in found.rows]
    assert read < FEW


async def test_a_request_of_an_account_is_traced_by_both(shared_id: SharedId) -> None:
    """`inmail trace ID --account ACCOUNT`."""
    connection, account = shared_id.book.connection, "a-1000"

    found, read = await _count_rows(connection, lambda: in_books.find_by_request(connection, shared_id.id, account))

    assert [account, account] == [each.account_id for each in found]
    assert read < FEW


@pytest.mark.parametrize("account", ["a-1000", "busy"])
async def test_the_audit_of_what_is_new_looks_for_the_other_answers_to_a_request_alone(
    shared_id: SharedId, account: str
) -> None:
    """As it asks for each new row."""
    connection = shared_id.book.connection
    (check,) = (each for each in _LOOKUPS if each.name == "request_has_one_outcome")
    await connection.execute("drop table if exists fresh")
    await connection.execute(
        "create temp table fresh as select j.* from journal as j join accounts as a using (account)"
        " where a.account_id = $1 and j.sequence <= 2",
        account,
    )

    async def look_up() -> list[Any]:
        await connection.execute(_LOOKUP_PLANS)
        return await connection.fetch(check.sql)

    found, read = await _count_rows(connection, look_up)

    assert ([], True) == (found, read < FEW)
    assert check.name in {each.name for each in CHECKS}


async def test_the_plans_of_the_look_ups_begin_with_the_request(shared_id: SharedId) -> None:
    """By the indexes for final answers and for conflicts, with both columns of the comparison."""
    connection = shared_id.book.connection
    rows = await connection.fetch("explain " + history._ANSWERS, ["busy"], [UUID(int=1)], [1])
    plan = "\n".join(row[0] for row in rows)

    assert all(index in plan for index in ("using journal_outcomes", "using journal_conflicts"))
    assert "Index Cond: ((ROW(request_id, account) >= ROW(u.request_id, a.account))" in plan
    assert "Index Cond: ((ROW(request_id, account, fingerprint) >= ROW(u.request_id, a.account," in plan


async def test_a_request_to_rewind_to_is_looked_for_by_its_id(shared_id: SharedId) -> None:
    """One that nobody knows as well, before it is refused: no index has all answers."""
    connection = shared_id.book.connection
    places = {0: PartitionState(0, 0, 9, 9, 9)}

    async def look_up() -> None:
        with pytest.raises(NoTargetError, match="send has no stored outcome of request"):
            await rewind_target._find_request(connection, WorkerName.SEND, uuid4(), places)

    _, read = await _count_rows(connection, look_up)

    assert read < FEW


async def test_the_answer_to_a_dead_letter_s_tick_is_found_by_its_partition(database: Connection) -> None:
    """The key of answers to ticks begins with it; 25 million of them come in a year. A stranger's letter may lie."""
    ticks = [
        ExpiryTick.create(id=UUID(int=each), source="/test", time=NEW_YEAR, data={"as_of": NEW_YEAR})
        for each in (5, BUSY)
    ]
    await database.execute(_TICKS, BUSY, fingerprint(ticks[0]))
    await database.execute("analyze ticks")
    asked = [(EXPIRY_TICKS, partition, tick) for tick, partition in zip(ticks, (1, 2**40), strict=True)]
    plans = []

    class _Explaining:
        async def fetch(self, sql: str, *values: Any) -> list[Any]:
            plans.append("\n".join(row[0] for row in await database.fetch(f"explain {sql}", *values)))
            return list(await database.fetch(sql, *values))

    explaining: Any = _Explaining()
    found = await history.read_answers(explaining, asked)

    assert ["booked", None] == [each and each.code for each in found]
    (plan,) = plans
    assert re.search(r"ticks_pkey.*\n +Index Cond: .*partition = ANY.*request_id = ANY", plan), plan
