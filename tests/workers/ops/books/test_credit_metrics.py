"""The credits of the whole book: read bit by bit, they are what the whole journal says, and what the audit says."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from infra.postgres import Connection
from infra.shards import NumberState, Shard, ShardNumber
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS
from workers.ops.books import credit_metrics
from workers.ops.books.audit import audit_books
from workers.ops.books.credit_metrics import CreditReader, CreditTotals
from workers.ops.books.shards import Holdings
from workers.ops.books.snapshot import snapshot

AT = datetime(2026, 3, 1, tzinfo=UTC)
TOPICS = {"send": SEND_REQUESTS, "billing": BILLING_EVENTS, "expiry": EXPIRY_TICKS}


class _Book:
    """Writes the journal as lanes do: rows, the lot they move, and how far the lane has read, in one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sequence = 0

    async def row(self, worker: str, code: str, amount: int, offset: int) -> None:
        """Write one row of the one lot there is."""
        self._sequence += 1
        await self._connection.execute(
            "insert into journal values (1, $1, gen_random_uuid(), 1, true, $2, $3, $4, 1, $5, 100, $6, $5, 0, $7,"
            " null, null, null, null, null, $8)",
            self._sequence,
            worker,
            code,
            amount,
            AT,
            100 + amount,
            offset,
            1 if code == "reversed" else None,
        )
        if code != "granted":
            await self._connection.execute("update lots set remaining = remaining + $1", amount)

    async def stands(self, worker: str, offset: int) -> None:
        """Move a lane."""
        await self._connection.execute(
            "insert into lanes (consumer_group, topic, partition, epoch, next_offset) values ($1, $2, 0, 1, $3)"
            " on conflict (consumer_group, topic, partition) do update set next_offset = $3",
            f"inmail-{worker}",
            TOPICS[worker],
            offset,
        )


@pytest.fixture
async def book(database: Connection) -> _Book:
    """A book of one account, with a lot of 100 credits."""
    written = _Book(database)
    await database.execute("insert into accounts (account_id, partition) values ('a', 0)")
    await database.execute(
        "insert into lots (account, lot, partition, request_id, origin, priority, on_change, credit_back, granted,"
        " remaining, granted_at, expires_at, full_expires_at, cap_pending)"
        " values (1, 1, 0, gen_random_uuid(), 'promotion', 1, 'keep', false, 100, 100, $1, $2, $2, false)",
        AT,
        AT + timedelta(days=90),
    )
    await written.row("billing", "granted", 100, 0)
    await written.stands("billing", 1)
    return written


async def _read(reader: CreditReader, connection: Connection) -> CreditTotals:
    async with snapshot(connection):
        return await reader.read(connection)


async def test_reading_what_is_new_comes_to_the_same_as_reading_all(
    book: _Book, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Movement after movement, offsets of one number in all three topics; all of the journal is read once."""
    kept = CreditReader()
    first = await _read(kept, database)
    moves = [
        ("send", "charged", -1, 0),
        ("send", "charged", -1, 1),
        ("billing", "adjusted", -7, 1),
        ("send", "reversed", 1, 2),
        ("billing", "cap_forfeited", -3, 2),
        ("billing", "forfeited", -5, 3),
        ("billing", "voided", -11, 4),
        ("expiry", "expired", -13, 0),
    ]
    monkeypatch.setattr(credit_metrics, "_ALL", "this is not asked again")
    found = []
    for worker, code, amount, offset in moves:
        await book.row(worker, code, amount, offset)
        await book.stands(worker, offset + 1)
        found.append(await _read(kept, database))
    monkeypatch.undo()
    totals = (await audit_books(database)).totals

    assert CreditTotals(dict.fromkeys(credit_metrics.MOVEMENTS, 0) | {"granted": 100}, 100, 0) == first
    assert found[-1] == await _read(CreditReader(), database)
    assert {0} == {each.difference for each in found}
    assert {name: getattr(totals, name) for name in credit_metrics.MOVEMENTS} == found[-1].moved
    assert {
        "granted": 100,
        "spent": 2,
        "reversed": 1,
        "expired": 13,
        "voided": 18,
        "forfeited": 8,
    } == found[-1].moved
    assert 60 == totals.remaining == found[-1].remaining


async def test_a_tick_that_is_half_done_is_no_difference(
    book: _Book, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps are booked before its lane moves; they are counted, and counted once."""
    kept = CreditReader()
    await book.stands("expiry", 4)
    await _read(kept, database)
    monkeypatch.setattr(credit_metrics, "_ALL", "this is not asked again")
    await database.execute(
        "insert into ticks (partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits,"
        " complete, steps) values (0, gen_random_uuid(), 1, 'booking', 5, $1, $1, 1, 13, false, 1)",
        AT,
    )
    await book.row("expiry", "expired", -13, 5)
    half = await _read(kept, database)
    await book.row("expiry", "expired", -4, 5)
    await book.stands("expiry", 6)
    whole = await _read(kept, database)

    assert (13, 0) == (half.moved["expired"], half.difference)
    assert (17, 0) == (whole.moved["expired"], whole.difference)


async def test_a_half_done_tick_at_the_first_reading_is_counted_once(
    book: _Book, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The observer may start at any moment."""
    await book.stands("expiry", 4)
    await database.execute(
        "insert into ticks (partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits,"
        " complete, steps) values (0, gen_random_uuid(), 1, 'booking', 4, $1, $1, 1, 13, false, 1)",
        AT,
    )
    await book.row("expiry", "expired", -13, 4)
    kept = CreditReader()
    half = await _read(kept, database)
    monkeypatch.setattr(credit_metrics, "_ALL", "this is not asked again")
    await book.stands("expiry", 5)
    whole = await _read(kept, database)

    assert [13, 13] == [each.moved["expired"] for each in (half, whole)]


@pytest.mark.parametrize(("change", "difference"), [(-2, 2), (3, -3)])
async def test_credits_that_are_not_accounted_for_are_told(
    book: _Book, database: Connection, change: int, difference: int
) -> None:
    """Lost ones and ones from nowhere."""
    await book.row("send", "charged", -1, 0)
    await database.execute("alter table lots drop constraint lots_check")
    kept = CreditReader()
    sound = await _read(kept, database)
    await database.execute("update lots set remaining = remaining + $1", change)

    assert 0 == sound.difference
    assert difference == (await _read(kept, database)).difference


async def test_rows_that_came_in_by_another_way_are_no_difference(book: _Book, database: Connection) -> None:
    """A book restored, a lane set back: then the whole journal is read again."""
    kept = CreditReader()
    await book.stands("send", 50)
    await _read(kept, database)
    await book.row("send", "charged", -1, 7)
    behind = await _read(kept, database)
    await book.row("send", "charged", -1, 8)
    await book.stands("send", 9)
    back = await _read(kept, database)

    assert [(1, 0), (2, 0)] == [(each.moved["spent"], each.difference) for each in (behind, back)]


async def test_copies_of_a_moved_number_have_the_journal_read_once_too(
    book: _Book, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may stay for days; what they hold counts nowhere, also what came after the first reading."""
    left = {1: ShardNumber(NumberState.LEFT, UUID(int=2), None)}
    holdings = Holdings(Shard(UUID(int=1), 0, holds_all=True, numbers=left), 2)
    await database.execute(
        "insert into accounts (account_id, partition) values ('copied', 1);"
        " create temp table copy on commit preserve rows as select * from lots;"
        " update copy set account = (select max(account) from accounts), partition = 1, remaining = 90;"
        " insert into lots select * from copy; drop table copy"
    )
    kept = CreditReader()

    async def read() -> CreditTotals:
        async with snapshot(database):
            return await kept.read(database, holdings)

    first = await read()
    monkeypatch.setattr(credit_metrics, "_ALL", " this is not asked again")
    await book.row("send", "charged", -1, 0)
    await database.execute("update lots set remaining = 90 where account <> 1")
    await book.stands("send", 1)
    later = await read()

    assert (100, 0, 0) == (first.remaining, first.moved["spent"], first.difference)
    assert (99, 1, 0) == (later.remaining, later.moved["spent"], later.difference)
