"""Reemission over several Postgres servers: each server's rows in turn, one operation, resumable."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.workers.command import run
from tests.workers.noted_operations import list_operations
from tests.workers.replaying import ME, mark
from tests.workers.two_servers import PlacedBook, TwoServers, account_of, set_state
from tests.workers.wire import prepare
from workers.commands.running import Exit
from workers.ops.books.shards import server_name
from workers.ops.operations import OperationStatus, RefusedError
from workers.ops.replay import reemit as reemit_module
from workers.ops.replay import reemit_rows
from workers.ops.replay.reemit import reemit
from workers.ops.replay.reemit_plan import plan_reemit
from workers.ops.replay.reemit_rows import RowFilter

FAST = 50_000.0
WHY = ["--by", "ops-1", "--because", "a trial", "--yes"]
_TICK = """
insert into ticks (
    partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits, complete, steps
) values ($1, $2, 1, 'booked', 5, '2026-01-01Z', '2026-01-01Z', 0, 0, true, 1)
"""


class Rows:
    """What two servers have to send: rows of three accounts and an answer to a tick, of all partitions."""

    def __init__(self, servers: TwoServers) -> None:
        """Take the servers, both empty."""
        self.servers = servers
        self.first, self.second = (account_of(number, f"r-{uuid4().hex[:12]}") for number in (0, 3))
        self.tick, self.send = uuid4(), uuid4()

    async def fill(self) -> None:
        """Book 2 rows and 3 answers to ticks on the first server, 3 and 1 on the second, copies on the first."""
        await self._book(PlacedBook(self.servers.first), self.first, self.second)
        await self._book(PlacedBook(self.servers.second), self.second)
        book = PlacedBook(self.servers.second)
        book.offset = 9
        await book.decide(book.send(self.second, id=self.send))
        for connection, numbers in ((self.servers.first, range(4)), (self.servers.second, [3])):
            for number in numbers:
                await connection.execute(_TICK, number, self.tick)

    async def arrive(self) -> None:
        """Let number 0 leave the first server for the second one, which has its rows then."""
        await self._book(PlacedBook(self.servers.second), self.first)
        await self.servers.second.execute(_TICK, 0, self.tick)
        await set_state(self.servers.first, 0, "left", self.servers.second)
        await set_state(self.servers.second, 0, "held")

    async def _book(self, book: PlacedBook, *accounts: str) -> None:
        for account in accounts:
            await book.decide(book.promotion(5, account), book.send(account))


@pytest.fixture
async def rows(servers: TwoServers, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Two servers with rows; a page is two."""
    monkeypatch.setattr(reemit_rows, "_PAGE", 2)
    await prepare(servers.both)
    found = Rows(servers)
    await found.fill()
    return found


async def test_all_rows_of_all_servers_are_sent_once_however_often_it_is_stopped(rows: Rows) -> None:
    """Rows of accounts, and the ticks of each server's own numbers; copies count nowhere."""
    both, start = rows.servers.both, await mark(rows.servers.both)
    whole, sent, counts = await plan_reemit(both, RowFilter(), None, FAST), 0, []
    while sent < whole.count:
        plan, stop = await plan_reemit(both, RowFilter(), None, FAST), asyncio.Event()
        done = await reemit(both, RowFilter(), plan, who=ME, stop=stop, progress=lambda _, stop=stop: stop.set())
        counts.append((plan.count + plan.sent_before, plan.sent_before, done.stopped))
        assert done.result["sent"]
        sent += done.result["sent"]
    events = [json.loads(each.value) for each in await start.read(both)]
    again = await plan_reemit(both, RowFilter(), None, FAST)

    sequences = [(each["subject"], each["data"]["sequence"]) for each in events if "sequence" in each["data"]]
    expected = [(rows.first, 1), (rows.first, 2), (rows.second, 1), (rows.second, 2), (rows.second, 3)]
    assert sorted(expected) == sorted(sequences)
    assert (9, 4, 9) == (len(events), len(events) - len(sequences), whole.count)
    assert ({9}, True) == ({total for total, _, _ in counts}, len(counts) > 3)
    assert (False, 9, None) == (counts[-1][2], again.count, again.resumes)
    (newest, *_) = await list_operations(both, 1)
    assert (OperationStatus.DONE, [True, True]) == (
        newest.status,
        [each["finished"] for each in newest.result["servers"]],
    )
    assert [] == await list_operations(rows.servers.alone[1], 9)


async def test_a_number_that_moves_between_two_parts_is_sent_once(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows and its answers to ticks: the server that got it leaves out what has arrived since the plan."""
    both, start, parts = rows.servers.both, await mark(rows.servers.both), 0

    async def pages_of(*arguments: Any) -> AsyncGenerator[Any, None]:
        nonlocal parts
        parts += 1
        if parts == 2:
            await rows.arrive()
        async for page in reemit_rows.read_pages(*arguments):
            yield page

    monkeypatch.setattr(reemit_module, "read_pages", pages_of)
    plan = await plan_reemit(both, RowFilter(), None, FAST)
    done = await reemit(both, RowFilter(), plan, who=ME, stop=asyncio.Event())

    assert ([], 2, 9, 9) == (done.failures, parts, plan.count, done.result["sent"])
    assert [[0, 1, 2], [3]] == [each["numbers"] for each in done.result["servers"]]
    assert 9 == len(await start.read(both))


async def test_a_request_is_found_on_whichever_server_has_it(rows: Rows) -> None:
    """Nobody has to know the account; one that no server knows is refused, but not while a server is away."""
    plan = await plan_reemit(rows.servers.both, RowFilter(request=rows.send), None, FAST)
    with pytest.raises(RefusedError, match="no matching row of request"):
        await plan_reemit(rows.servers.both, RowFilter(request=UUID(int=1)), None, FAST)
    away = await plan_reemit(rows.servers.without_second(), RowFilter(request=UUID(int=1)), None, FAST)

    assert plan.servers is not None
    assert [0, 1] == [part.count for part in plan.servers.plans]
    assert (0, 1) == (away.count, len(away.silent))


@pytest.mark.whole
async def test_a_server_that_does_not_answer_is_left_out_by_name_and_done_by_the_same_command(rows: Rows) -> None:
    """The exit code tells; the next run sends what is missing and nothing else."""
    both, start = rows.servers.both, await mark(rows.servers.both)

    code, out, err = await run(rows.servers.without_second(), "replay", "reemit", "--all", *WHY)
    done, answer, _ = await run(both, "replay", "reemit", "--all", *WHY, "--json")

    first, second = map(server_name, rows.servers.alone)
    told = json.loads(answer)
    assert (Exit.UNREACHABLE, Exit.DONE) == (code, done)
    assert f"  {first}: 5 events\n  localhost:1/inmail: 0 events, not finished" in out
    assert "Postgres cannot be reached at localhost:1" in err
    assert (4, 5, [(first, None), (second, 4)]) == (
        told["result"]["sent"],
        told["result"]["sent_before"],
        [(each["server"], each["plan"] and each["plan"]["events"]) for each in told["plan"]["servers"]],
    )
    assert 9 == len(await start.read(both))
