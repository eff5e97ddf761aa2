"""The view of an account, however long its journal is."""

import json

import pytest
from aiohttp.test_utils import make_mocked_request

from infra.postgres import Connection
from infra.settings import Settings
from tests.ledger.book import DAY, Book
from workers.console.api import Api
from workers.console.operation_runner import OperationRunner
from workers.console.query_limiter import QueryLimiter
from workers.console.system_monitor import SystemMonitor
from workers.ops.books import statement
from workers.ops.books.statement import StatementLine, statement_of


async def test_of_a_long_journal_the_newest_lines_are_read_and_the_others_counted(
    settings: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooled account's journal grows without end, and its open page asks again every few seconds."""
    book = Book(database)
    for _ in range(4):
        await book.decide(*(book.send(relationship="connection") for _ in range(500)))
        book.now += DAY
    worded: list[int] = []

    def word(line: StatementLine) -> str:
        worded.append(line.sequence)
        return "a reason"

    monkeypatch.setattr(statement, "reason_of", word)
    limiter = QueryLimiter(settings)
    api = Api(limiter, SystemMonitor(limiter, {}), OperationRunner(settings))
    body = (await api.account(make_mocked_request("GET", "/api/account?id=alice"))).body
    assert isinstance(body, bytes)
    answer = json.loads(body)

    assert 2000 == answer["line_count"]
    assert list(range(2000, 1500, -1)) == [line["sequence"] for line in answer["lines"]]
    assert 500 == len(worded)


async def test_the_newest_lines_are_those_up_to_the_instant(database: Connection) -> None:
    """What was booked later is neither listed nor counted."""
    book = Book(database)
    first = book.now
    await book.decide(*(book.send(relationship="connection") for _ in range(5)))
    book.now += DAY
    await book.decide(*(book.send(relationship="connection") for _ in range(2)))

    some = await statement_of(database, "alice", first, last=3)
    whole = await statement_of(database, "alice")

    assert ([3, 4, 5], 5) == ([line.sequence for line in some.lines], some.line_count)
    assert (list(range(1, 8)), 7) == ([line.sequence for line in whole.lines], whole.line_count)
