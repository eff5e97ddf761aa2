"""The console's check that the books balance: on a real database."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from infra.postgres import Connection
from infra.settings import Settings
from workers.console import books_check
from workers.console.books_check import BooksCheck
from workers.console.query_limiter import QueryLimiter
from workers.ops.books.credit_metrics import CreditReader, CreditTotals

AT = datetime(2026, 3, 1, tzinfo=UTC)


async def test_credits_that_are_missing_are_told_at_the_next_check(settings: Settings, database: Connection) -> None:
    """Nothing is told before the first check; the next one comes after its time, and not before."""
    now = 0.0
    check = BooksCheck(QueryLimiter(settings), lambda: now)
    await database.execute("insert into accounts (account_id, partition) values ('a', 0)")
    await database.execute(
        "insert into lots (account, lot, partition, request_id, origin, priority, on_change, credit_back, granted,"
        " remaining, granted_at, expires_at, full_expires_at, cap_pending)"
        " values (1, 1, 0, gen_random_uuid(), 'promotion', 1, 'keep', false, 100, 100, $1, $2, $2, false)",
        AT,
        AT + timedelta(days=90),
    )

    before = check.part()
    await check.wait()
    sound = check.part()
    await database.execute("update lots set remaining = 97")
    now = 59.0
    early = check.part()
    now = 61.0
    check.part()
    await check.wait()
    wrong = check.part()
    await check.close()

    assert before is None
    assert sound is not None
    assert ("ok", "balanced") == (sound.status, sound.cause)
    assert early == sound
    assert wrong is not None
    assert ("failed", "out of balance", "3 credits are missing") == (wrong.status, wrong.cause, wrong.text)
    assert "`inmail audit`" in wrong.do


async def test_a_check_that_cannot_be_made_says_that_nothing_is_known(settings: Settings) -> None:
    """Before the first check nothing is told; from a failure on it is said that, and why."""
    away = settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://a@127.0.0.1:1/a")})
    check = BooksCheck(QueryLimiter(away))

    before = check.part()
    await check.wait()
    part = check.part()
    await check.close()

    assert before is None
    assert part is not None
    assert ("unknown", "not checked") == (part.status, part.cause)
    assert part.text.startswith("not checked since this console began: ")


async def test_books_that_once_balanced_are_unknown_after_a_check_that_failed(settings: Settings) -> None:
    """What was found an hour ago is no news of now; once Postgres is there again they are checked soon."""
    now = 0.0
    limiter = QueryLimiter(settings)
    check = BooksCheck(limiter, lambda: now)
    check.part()
    await check.wait()
    sound = check.part()
    url = type(settings.database_url)("postgresql://a@127.0.0.1:1/a")
    limiter.settings = limiter.settings.model_copy(update={"database_url": url})
    now = 61.0
    check.part()
    await check.wait()
    stale = check.part()
    limiter.settings = settings
    now = 72.0
    check.part()
    await check.wait()
    again = check.part()
    await check.close()

    assert sound is not None
    assert "ok" == sound.status
    assert stale is not None
    assert "unknown" == stale.status
    assert again == sound
    assert re.match(r"not checked since \d{4}-\d\d-\d\d \d\d:\d\d UTC: ", stale.text)


@pytest.mark.parametrize(("seconds", "pause"), [(0.1, 10.0), (12.0, 240.0), (500.0, 600.0)])
async def test_the_longer_a_check_ran_before_it_failed_the_later_is_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float, pause: float
) -> None:
    """Whatever it failed of: one that reads the whole journal for nothing is not repeated at once, and for ever."""
    now, begun = 0.0, 0

    async def fail(_: CreditReader, __: Connection) -> CreditTotals:
        nonlocal now, begun
        now, begun = now + seconds, begun + 1
        raise asyncpg.PostgresConnectionError("the connection was lost")

    monkeypatch.setattr(CreditReader, "read", fail)
    check = BooksCheck(QueryLimiter(settings), lambda: now)
    counts = []
    for after in (0.0, pause - 0.05, 0.1):
        now += after
        check.part()
        await check.wait()
        check.part()
        counts.append(begun)
    await check.close()

    assert [1, 1, 2] == counts


async def test_the_first_check_may_take_longer_than_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the whole journal, once; each later one reads what came since."""
    now, pause = 0.0, 0.05
    read = CreditReader.read

    async def read_slowly(reader: CreditReader, connection: Connection) -> CreditTotals:
        found = await read(reader, connection)
        await asyncio.sleep(pause)
        return found

    monkeypatch.setattr(CreditReader, "read", read_slowly)
    monkeypatch.setattr(books_check, "_LIMITS", 0.4 / settings.console_timeout_seconds)
    check = BooksCheck(QueryLimiter(settings), lambda: now)
    statuses = []
    for now, pause in ((0.0, 0.6), (61.0, 0.0), (122.0, 0.6)):  # noqa: B007 - the closures read them
        check.part()
        await check.wait()
        part = check.part()
        statuses.append(part.status if part is not None else None)
    await check.close()

    assert ["ok", "ok", "unknown"] == statuses
