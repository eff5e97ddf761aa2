"""A short slice of the crash matrix, and that the matrix fails where a protection is taken out."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from itertools import cycle
from pathlib import Path
from random import Random
from time import monotonic
from unittest.mock import AsyncMock, Mock

import asyncpg
import pytest
from aiokafka import TopicPartition

from infra.kafka.clients import admin_client
from infra.local.stack import LocalStack
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, TOPICS
from tests.conftest import MORTAL
from tests.crash.broken import BROKEN
from tests.crash.coordinators import Coordinators
from tests.crash.gate import _cut
from tests.crash.group import Group
from tests.crash.matrix import crash_settings, crash_stack, run
from tests.crash.member import Member
from tests.crash.offset_log import log_ends, offsets_that_went_back
from tests.crash.points import JOBS, POINTS, SERVERS, Cell, Kind, Phase, cells, plan
from tests.crash.process import Start
from tests.crash.result import Order, Result, as_json, summary
from tests.crash.table import DOCUMENT
from tests.crash.watch import Watch
from tests.whole import ALL, whole_but
from tests.workers.wire import set_offset
from workers.ops.topics.plan import apply_topics, plan_topics

SEED = 1
ROUNDS = 3 if ALL else 2
_GONE_SECONDS = 20

# What each protection is against. With the protection, nothing may be wrong; without it, this much has to be.
DIRECTED = {
    "no fence": (Cell("send", "commit", Phase.AFTER, Kind.FROZEN), {"doubled", "repeated", "backwards"}),
    "no epoch": (Cell("send", "decode", Phase.BEFORE, Kind.FROZEN), {"stale"}),
    "two at once": (Cell("send", "confirm", Phase.BEFORE, Kind.REBALANCE), {"lost", "backwards", "repeated"}),
    "offset first": (Cell("send", "partitions", Phase.BEFORE, Kind.KILLED), {"lost"}),
    "deliveries unawaited": (Cell("send", "delivery", Phase.BEFORE, Kind.REFUSED), {"lost"}),
}
# `make crash` runs them all; the tests, those that take a moment.
FORMS = list(DIRECTED) if os.environ.get("CRASH") else ["no epoch", "offset first"]


@pytest.fixture(scope="module")
def mortal() -> Iterator[LocalStack]:
    """Servers that may be killed, beside those of the other tests."""
    with crash_stack(lambda _: None, postgres_settings=MORTAL) as stack:
        yield stack


@pytest.fixture
async def fresh(mortal: LocalStack, request: pytest.FixtureRequest) -> Settings:
    """Settings for new topics and an empty database on those servers."""
    name = f"crash_{abs(hash(request.node.name))}"
    settings = crash_settings(mortal)
    base, _, _ = mortal.database_url.rpartition("/")
    connection = await asyncpg.connect(mortal.database_url)
    await connection.execute(f"create database {name}")
    await connection.close()
    settings = settings.model_copy(update={"database_url": type(settings.database_url)(f"{base}/{name}")})
    await _remove_topics(settings)
    return settings


async def _remove_topics(settings: Settings) -> None:
    async with admin_client(settings) as admin, asyncio.timeout(_GONE_SECONDS):
        while left := set(await admin.list_topics()) & set(TOPICS):
            await admin.delete_topics(sorted(left))


async def _run(stack: LocalStack, settings: Settings, order: Order, logs: Path) -> Result:
    return await run(stack, settings, order, logs, lambda _: None)


async def test_what_a_worker_ended_of_is_read_though_it_was_spoken_to_meanwhile(
    settings: Settings, tmp_path: Path
) -> None:
    """Else it would seem to have ended in order, unasked."""
    unreadable = settings.model_copy(update={"plans_file": tmp_path / "none.toml"})
    member = Member(Start("send", unreadable, tmp_path / "log", None, None), None)
    member._process.join(30)  # the loop stands still, and reads nothing
    member.go()

    assert "none.toml" in member.error


async def test_a_worker_that_dies_as_it_ends_is_noticed(settings: Settings, tmp_path: Path) -> None:
    """The matrix's own kills are not: of those, a worker that was told to end before may die too."""
    group = Group([Start("send", settings, tmp_path / "log", None, None)], None)
    dies, killed = group.join(), group.join()
    for member in (dies, killed):
        member.leave()
    dies.signal(signal.SIGKILL)
    await killed.kill()
    await asyncio.wait_for(dies.gone.wait(), _GONE_SECONDS)
    for member in (dies, killed):
        group._note_end(member)

    assert ["send: a worker that was told to end ended with code -9 and without a word"] == group.broken


async def test_an_offset_that_went_back_is_judged_in_the_run_in_which_it_did(fresh: Settings) -> None:
    """The broker's log has those of all runs on it."""
    await apply_topics(fresh, await plan_topics(fresh))

    async def commit(*offsets: int) -> None:
        for offset in offsets:
            await set_offset(fresh, "crash-test", TopicPartition(SEND_REQUESTS, 0), offset)

    await commit(3, 2)
    since = await log_ends(fresh)
    await commit(5, 4)

    async with aclosing(offsets_that_went_back(fresh, since)) as places:
        assert [f"{('crash-test', SEND_REQUESTS, 0)}: 5 to 4"] == [place async for place in places]


def test_connections_to_each_port_of_a_server_are_cut_and_counted() -> None:
    """Of several brokers, each has a port; where nothing is open, nothing is cut."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [server.getsockname()[1] for server in servers]
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for port in ports[:2]]

        assert (2, 0) == (_cut(set(ports)), _cut({ports[2]}))
        assert [b"", b""] == [client.recv(1) for client in clients]


@pytest.mark.timeout(240)
async def test_a_seeded_slice_of_the_matrix_breaks_no_promise(
    mortal: LocalStack, fresh: Settings, tmp_path: Path
) -> None:
    """The faults that each protection is against, and some by chance. `make crash` makes a thousand."""
    wanted = [*_directed_at_each(), *_by_chance()] if ALL else _one_of_each_kind()
    # With more, half of the time is to work off what is left; with 20, ticks are too seldom for the points they reach.
    order = Order(wanted, len(wanted), SEED, rate=60, recovery_seconds=1)

    result = await _run(mortal, fresh, order, tmp_path)

    assert result.passed, json.dumps(as_json(result), indent=1)


def _directed_at_each() -> Iterator[Cell]:
    """Yield the fault that each protection is against, of one worker after the other."""
    for (cell, _), job in zip(DIRECTED.values(), cycle(JOBS), strict=False):
        yield cell._replace(job=job)


def _one_of_each_kind() -> list[Cell]:
    """Return a fault of each kind: where a protection is against one, the fault that it is against.

    They are of one worker after the other, since those of one come one after another; where none is, by chance. A
    server's kill meets a worker of each job.
    """
    dice = Random(SEED)  # noqa: S311 - a workload
    turns = cycle(JOBS)
    found = {cell.kind: [cell._replace(job=next(turns))] for cell in {c.kind: c for c, _ in DIRECTED.values()}.values()}
    for kind in Kind:
        jobs = JOBS if kind in SERVERS else (next(turns),) if kind not in found else ()
        for job in jobs:
            cell = dice.choice([cell for cell in cells(kinds=[kind]) if cell.job == job])
            found.setdefault(kind, []).append(cell)
    return [cell for kind in Kind for cell in found[kind]]


def _by_chance() -> Iterator[Cell]:
    """Yield two faults of each worker's, and one kill of each server that meets all workers."""
    dice = Random(SEED)  # noqa: S311 - a workload
    for job in JOBS:
        mine = [cell for cell in cells() if cell.job == job]
        yield from dice.sample([cell for cell in mine if cell.kind not in SERVERS], 2)
        for server in SERVERS:
            yield dice.choice([cell for cell in mine if cell.kind is server])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("form", whole_but(FORMS, "offset first"))
async def test_the_matrix_fails_without_a_protection(
    mortal: LocalStack, fresh: Settings, tmp_path: Path, form: str
) -> None:
    """Each form of the turn with a protection taken out is found out by the faults it is against."""
    _, promises = DIRECTED[form]

    result = await _run(mortal, fresh, _directed(form, form), tmp_path)

    assert result.faults.total() == ROUNDS, dict(result.reasons)
    assert promises & set(result.verdict.counts), summary(result)


@pytest.mark.whole
@pytest.mark.timeout(240)
@pytest.mark.parametrize("form", FORMS if os.environ.get("CRASH") else ["offset first"])
async def test_the_same_faults_break_no_promise_with_the_protection(
    mortal: LocalStack, fresh: Settings, tmp_path: Path, form: str
) -> None:
    """Else what a form without it is found out by would be the harness's doing."""
    result = await _run(mortal, fresh, _directed(form, None), tmp_path)

    assert result.faults.total() == ROUNDS, dict(result.reasons)
    assert result.passed, json.dumps(as_json(result), indent=1)


def _directed(form: str, broken: str | None) -> Order:
    """Return an order of the fault that a protection is against, on workers without it or, as a control, with it."""
    cell, _ = DIRECTED[form]
    return Order([cell], ROUNDS, SEED, recovery_seconds=0, drain_seconds=10, broken=broken)


def test_every_protection_has_its_broken_form() -> None:
    """None can be added without a fault that shows what it is for."""
    assert set(BROKEN) == set(DIRECTED)


def test_a_point_that_nobody_comes_to_fails_the_matrix() -> None:
    """A call that is renamed takes its point with it; that must not look like a fault survived."""
    cell = Cell("send", "seek", Phase.BEFORE, Kind.KILLED)
    result = Result(Order([cell], 1, SEED))
    assert result.passed

    result.missed[cell] += 1

    assert (["seek"], False) == (result.unreached, result.passed)


def test_faults_without_effect_fail_the_matrix() -> None:
    """One of a kind that is never made, though it was begun often, and too many of any kind."""
    killed, cut = Cell("send", "seek", Phase.BEFORE, Kind.KILLED), Cell("send", "seek", Phase.AFTER, Kind.KAFKA_CUT)
    result = Result(Order([killed, cut], 1, SEED))
    result.faults[killed] = 97
    for job in JOBS:
        result.miss(cut._replace(job=job), "nothing was open")
    assert (["seek after Kafka cut"], False) == (result.unmade, result.passed)

    result.faults[cut] = 1
    assert ([], True) == (result.unmade, result.passed)

    for _ in range(3):
        result.miss(killed, "nobody came")
    assert (True, False) == (result.misses_too_many, result.passed)
    assert {"nothing was open": 3, "nobody came": 3} == as_json(result)["missed_reasons"]


async def test_recovery_counts_from_before_a_fault_and_from_lanes_that_are_there(tmp_path: Path) -> None:
    """One that the next fault met before is counted apart, and so is a group that never recovered."""
    cell = Cell("send", "seek", Phase.BEFORE, Kind.KILLED)
    stored: dict[tuple[str, int], int] = {}
    books = AsyncMock()
    books.stored.side_effect = lambda: dict(stored)
    send, billing = (Mock(name=job) for job in ("send", "billing"))
    send.name, billing.name = "inmail-send", "inmail-billing"
    watch, result = Watch(books, tmp_path / "log"), Result(Order([cell], 1, SEED))
    running = asyncio.create_task(watch.run())

    watch.expect(cell, await watch.before(send), 1)
    watch.expect(cell, await watch.before(billing), 1)
    await watch.recovery([send], 0.3)  # there is no lane
    stored["inmail-send", 0] = 1
    await watch.recovery([send], 5)
    before = await watch.before(send)
    stored["inmail-send", 0] = 2
    await asyncio.sleep(0.3)
    watch.expect(cell, before, 1)  # it recovered while the fault lasted
    await watch.recovery([send], 5)
    began = monotonic()
    watch.expect(cell, await watch.before(send), 1)
    watch.disturb(send)
    stored["inmail-send", 0] = 3
    await watch.recovery([send], 5)
    within = monotonic() - began
    running.cancel()
    watch.report(result)

    (first, second), (third,) = result.recovery[cell], result.disturbed[cell]
    assert (first > 0.3, second > 0.3, third <= within) == (True, True, True)
    assert {cell: 1} == result.not_recovered


def test_each_cell_comes_once_before_any_comes_again() -> None:
    """Of as many faults as there are cells, each is another; the same seed draws the same."""
    wanted = list(cells())

    def drawn(seed: int) -> list[Cell]:
        stages = plan(wanted, len(wanted), seed)
        return [cell for stage in stages for job in JOBS for cell in stage.cells.get(job, [])]

    assert sorted(wanted) == sorted(drawn(1))
    assert drawn(1) == drawn(1) != drawn(2)


def test_the_page_names_every_point_and_kind() -> None:
    """A point that is added is to be seen there: run the matrix and render it."""
    page = DOCUMENT.read_text()

    assert [] == [name for name in POINTS if page.count(f"\n| `{name}` |") != 2]
    assert [] == [kind for kind in Kind if f" {kind} |" not in page]


def test_a_coordinator_that_is_loaded_again_is_told_by_the_broker_s_log_since_the_last_look(tmp_path: Path) -> None:
    """A broker's log of an hour has 150 MB: it is not read again at each look."""
    log = tmp_path / "kafka.log"
    said = "ERROR The state machine of the coordinator __consumer_offsets-0 is out of sync with the underlying log.\n"
    log.write_text("INFO started\n" + 2 * said)
    coordinators = Coordinators(Mock(brokers=1, broker_log=lambda _: log), Mock(), [], Mock())
    counts = [coordinators._count_loads()]
    with log.open("a") as more:
        more.write(said)

    assert [2, 1, 0] == [*counts, coordinators._count_loads(), coordinators._count_loads()]
