"""The console's check that the books balance: on a real database."""

from datetime import UTC, datetime, timedelta

from infra.postgres import Connection
from infra.settings import Settings
from workers.console.books_check import BooksCheck
from workers.console.query_limiter import QueryLimiter

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
    assert ("failed", "books do not balance", "3 credits are missing") == (wrong.status, wrong.cause, wrong.text)
    assert "`inmail audit`" in wrong.do


async def test_a_check_that_cannot_be_made_is_told_by_nobody(settings: Settings) -> None:
    """The sample names the server; the check waits longer before the next try."""
    now = 0.0
    away = settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://a@127.0.0.1:1/a")})
    check = BooksCheck(QueryLimiter(away), lambda: now)

    check.part()
    await check.wait()

    assert check.part() is None
    await check.close()
