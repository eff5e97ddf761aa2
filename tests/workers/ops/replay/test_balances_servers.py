"""`replay balances --all` over several Postgres servers: each server's accounts in turn, one operation, resumable."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from infra.settings import Settings
from schemas.catalogue import BALANCES
from tests.whole import whole
from tests.workers.balances_view import read_log
from tests.workers.command import run
from tests.workers.noted_operations import list_operations
from tests.workers.replaying import ME
from tests.workers.two_servers import SILENT, PlacedBook, TwoServers, account_of, set_state
from tests.workers.wire import ends, prepare
from workers.commands.running import Exit
from workers.ops.books.shards import NotHeldError, server_name
from workers.ops.operations import Intent, OngoingOperation, OperationStatus, RefusedError, recorded_operation
from workers.ops.replay import balances as replay_balances
from workers.ops.replay.balances import VERB, BalancesPlan, plan_balances, publish_balances

FAST = 50_000.0
WHY = ["--by", "ops-1", "--because", "a trial", "--yes"]


class Books:
    """Two servers with three accounts on the first and two on the second, and what was published of them."""

    def __init__(self, servers: TwoServers) -> None:
        """Take the servers, with the topic of balances switched on."""
        self.servers = servers
        self.first = [account_of(number, f"b-{uuid4().hex[:12]}") for number in (0, 1, 2)]
        self.second = [account_of(3, f"b-{uuid4().hex[:12]}") for _ in range(2)]
        self.names = [server_name(each) for each in servers.alone]

    async def fill(self) -> None:
        """Give credits to all accounts; the first server has a copy of an account that has left it."""
        one, other = PlacedBook(self.servers.first), PlacedBook(self.servers.second)
        await one.decide(*(one.promotion(1, each) for each in [*self.first, self.second[0]]))
        await other.decide(*(other.promotion(2, each) for each in self.second))

    async def begin(self) -> None:
        """Note where the topic ends."""
        self.start = await ends(self.servers.both, BALANCES)

    async def published(self) -> list[str]:
        """Return the accounts whose balances were published, each as often as it was, and how much they have."""
        log = [
            each
            for account in self.first + self.second
            for each in await read_log(self.servers.both, self.start, account)
        ]
        found = [json.loads(each.value) for each in log]
        return sorted(f"{each['subject']} {each['data']['spendable']}" for each in found)

    def all(self) -> list[str]:
        """Return what is published when each account's balance is published once."""
        return sorted([f"{each} 1" for each in self.first] + [f"{each} 2" for each in self.second])


@pytest.fixture
async def books(servers: TwoServers, monkeypatch: pytest.MonkeyPatch) -> Books:
    """Two servers with accounts; a page is one account."""
    monkeypatch.setattr(replay_balances, "_PAGE", 1)
    own = replace(servers, both=servers.both.model_copy(update={"balances_topic": True}))
    await prepare(own.both)
    found = Books(own)
    await found.fill()
    await found.begin()
    return found


async def publish(
    settings: Settings, stop_after: int | None = None, plan: BalancesPlan | None = None
) -> tuple[BalancesPlan, OngoingOperation]:
    """Publish all balances, or stop when a number of them has been sent."""
    stop = asyncio.Event()

    def progress(done: int) -> None:
        if done == stop_after:
            stop.set()

    plan = plan or await plan_balances(settings, None, FAST)
    return plan, await publish_balances(settings, plan, who=ME, stop=stop, progress=progress)


def entries(done: OngoingOperation) -> list[tuple[Any, ...]]:
    """Return what the result has of each server."""
    return [
        (each["server"], each.get("sent"), each.get("sent_before"), each["finished"]) for each in done.result["servers"]
    ]


@pytest.mark.parametrize(("stopped_at", "left"), [(3, 2), whole(4, 1)], ids=["between two servers", "in the second"])
async def test_all_servers_are_published_once_by_a_run_that_was_stopped_and_resumed(
    books: Books, stopped_at: int, left: int
) -> None:
    """Wherever it was stopped, nothing is sent again or left out; a copy of another server's account counts nowhere."""
    plan, first = await publish(books.servers.both, stopped_at)
    rest, second = await publish(books.servers.both)
    again = await plan_balances(books.servers.both, None, FAST)

    assert (5, True, stopped_at) == (plan.accounts, first.stopped, first.result["sent"])
    assert (left, stopped_at, first.number) == (rest.accounts, rest.sent_before, rest.resumes)
    assert (False, left, stopped_at) == (second.stopped, second.result["sent"], second.result["sent_before"])
    assert [(name, True) for name in books.names] == [
        (each["server"], each["finished"]) for each in second.result["servers"]
    ]
    assert (5, None) == (again.accounts, again.resumes)
    assert books.all() == await books.published()
    assert [OperationStatus.DONE, OperationStatus.STOPPED] == [
        each.status for each in await list_operations(books.servers.both, 9)
    ]
    assert [] == await list_operations(books.servers.alone[1], 9)


async def test_a_server_that_does_not_answer_is_left_out_by_name_and_done_by_the_same_command(books: Books) -> None:
    """The others are published, the exit code tells, and the next run publishes what is missing and nothing else."""
    away = books.servers.without_second().model_copy(update={"balances_topic": True})
    names = [books.names[0], "localhost:1/inmail"]

    dry, plan, why = await run(away, "replay", "balances", "--all", "--dry-run")
    code, out, err = await run(away, "replay", "balances", "--all", *WHY, "--json")
    (noted,) = await list_operations(away, 9)
    rest, second = await publish(books.servers.both)

    answer = json.loads(out)
    assert (Exit.UNREACHABLE, Exit.UNREACHABLE) == (dry, code)
    assert re.search(rf"{names[0]} +0-2 +3", plan)
    assert re.search(rf"{names[1]} +left out: does not answer", plan)
    assert "localhost:1" in why
    assert "localhost:1" in json.loads(err.splitlines()[-1])["message"]
    assert [(names[0], [0, 1, 2], 3), (names[1], None, None)] == [
        (each["server"], each["numbers"], each["plan"] and each["plan"]["accounts"])
        for each in answer["plan"]["servers"]
    ]
    assert [(names[0], 3, 0, True), (names[1], None, None, False)] == [
        (each["server"], each.get("sent"), each.get("sent_before"), each["finished"])
        for each in answer["result"]["servers"]
    ]
    assert (OperationStatus.FAILED, True) == (noted.status, "localhost:1" in noted.result["error"])
    assert (2, 3) == (rest.accounts, rest.sent_before)
    assert [(books.names[0], 0, 3, True), (books.names[1], 2, 0, True)] == entries(second)
    assert books.all() == await books.published()


async def test_a_server_that_goes_away_during_the_run_is_told_and_the_next_run_goes_on_there(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has done is not done again, though a run in between does not reach it at all."""
    plan = await plan_balances(books.servers.both, None, FAST)
    read, pages = replay_balances.balance_messages, 0

    async def breaks(*arguments: Any, **named: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages == 2:
            raise ConnectionResetError("planted")
        return await read(*arguments, **named)

    with monkeypatch.context() as broken:
        broken.setattr(replay_balances, "balance_messages", breaks)
        _, first = await publish(books.servers.both, plan=plan)

    rest, second = await publish(books.servers.both)

    assert [f"Postgres at {books.names[0]}: planted"] == [str(each) for each in first.failures]
    assert [(books.names[0], 1, 0, False), (books.names[1], 2, 0, True)] == entries(first)
    assert [(books.names[0], 2, 1, True), (books.names[1], 0, 2, True)] == entries(second)
    assert (2, 3) == (rest.accounts, rest.sent_before)
    assert books.all() == await books.published()


async def test_numbers_that_move_meanwhile_are_told_and_published_by_the_next_run(books: Books) -> None:
    """A server whose part is finished begins again where it got a number since; none is left out without a word."""
    plan = await plan_balances(books.servers.both, None, FAST)
    await set_state(books.servers.first, 2, "left", books.servers.second)
    await set_state(books.servers.second, 2, "held")

    _, first = await publish(books.servers.both, plan=plan)
    rest = await plan_balances(books.servers.both, None, FAST)
    _, second = await publish(books.servers.both, plan=rest)

    assert ["partition numbers 2 moved to another server meanwhile: run the same command again"] == list(
        map(str, first.failures)
    )
    assert [[0, 1], [3]] == [each["numbers"] for each in first.result["servers"]]
    assert rest.servers is not None
    assert [True, False] == [part.plan is None for part in rest.servers.parts]
    assert ([], [[0, 1], [2, 3]]) == (second.failures, [each["numbers"] for each in second.result["servers"]])


@pytest.mark.whole
async def test_a_number_that_moves_between_two_parts_is_published_once(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part that has published it counts for it; the other one leaves out what has arrived since the plan."""
    read, parts = replay_balances._pages, 0

    async def pages(*arguments: Any) -> AsyncGenerator[Any, None]:
        nonlocal parts
        parts += 1
        if parts == 2:
            other = PlacedBook(books.servers.second)
            await other.decide(other.promotion(1, books.first[2]))
            await set_state(books.servers.first, 2, "left", books.servers.second)
            await set_state(books.servers.second, 2, "held")
        async for page in read(*arguments):
            yield page

    monkeypatch.setattr(replay_balances, "_pages", pages)
    _, done = await publish(books.servers.both)

    assert ([], 5, 2) == (done.failures, done.result["sent"], parts)
    assert [[0, 1, 2], [3]] == [each["numbers"] for each in done.result["servers"]]
    assert books.all() == await books.published()


async def test_a_number_that_no_server_holds_is_refused_before_anything_is_sent(books: Books) -> None:
    """A move that was broken off has to be finished first; so has a number that two servers claim."""
    await set_state(books.servers.second, 3, "arriving", books.servers.first)
    with pytest.raises(NotHeldError, match="partition number 3 is held by no server"):
        await plan_balances(books.servers.both, None, FAST)
    await set_state(books.servers.second, 2, "held")
    await set_state(books.servers.second, 3, "held")
    with pytest.raises(NotHeldError, match="partition number 2 is held by 2 servers"):
        await plan_balances(books.servers.both, None, FAST)


async def test_one_run_at_a_time_works_on_a_server_wherever_it_is_noted(books: Books) -> None:
    """Two would publish under one key, and the later record could be the older balance."""
    async with recorded_operation(books.servers.alone[1], Intent(VERB, *ME, {}, {})):
        with pytest.raises(RefusedError, match=rf"{books.names[1]}: another replay balances is under way"):
            await publish(books.servers.both)

    rest, _ = await publish(books.servers.both)
    assert (2, 3) == (rest.accounts, rest.sent_before)
    assert books.all() == await books.published()
    assert SILENT not in str(rest.summary())
