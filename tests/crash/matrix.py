"""A run of the matrix: faults under load on real engines in real processes, then the verdict."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

from aiokafka.errors import KafkaError

from infra.kafka.clients import admin_client, committed_offsets, reader
from infra.local.artifacts import Lock
from infra.local.stack import LocalStack
from infra.settings import RecordTime, Settings, load_settings
from infra.shards import settings_of_shards
from schemas.catalogue import CATALOGUE
from tests.crash.approach import NotMadeError, Surroundings
from tests.crash.books import Books
from tests.crash.coordinators import Coordinators
from tests.crash.group import Group
from tests.crash.judge import judge
from tests.crash.load import Inputs, Load
from tests.crash.member import Member
from tests.crash.offset_log import log_ends
from tests.crash.points import JOBS, Cell, Kind, Stage, plan
from tests.crash.process import Start
from tests.crash.result import Order, Result
from tests.crash.watch import Watch
from tests.workers.wire import settled
from workers.local.shards import prepare_shards
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["PARTITIONS", "crash_settings", "crash_stack", "run"]

PARTITIONS = 3
_LET_RECOVER = 8  # after each so manyeth fault the next waits: recovery is measured undisturbed
_GROUPS = {row.topic: row.group or "" for row in CATALOGUE if row.group}


def crash_stack(
    report: Callable[[str], None],
    brokers: int = 1,
    kafka: Lock | None = None,
    postgres_settings: Mapping[str, str] | None = None,
    *,
    databases: int = 1,
) -> LocalStack:
    """Return a stack whose brokers notice what is lost in a second or two; `kafka` is a version not the project's."""
    return LocalStack(
        report=report,
        brokers=brokers,
        databases=databases,
        kafka_lock=kafka,
        postgres_settings=postgres_settings,
        broker_settings={
            "group.min.session.timeout.ms": "500",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
            "broker.session.timeout.ms": "1500",
            "broker.heartbeat.interval.ms": "250",
        },
    )


def crash_settings(stack: LocalStack, partitions: int = PARTITIONS) -> Settings:
    """Return the settings of the workers under fault."""
    return load_settings(
        kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
        database_url=stack.database_url,
        database_shards=" ".join(stack.database_urls) if stack.databases > 1 else "",
        topic_partitions=partitions,
        topic_replication=min(stack.brokers, 3),
        topic_record_time=RecordTime.CREATE,
        session_seconds=6,
        transaction_seconds=1.2,
        drain_seconds=2,
        batch_records=50,
        tick_grace_seconds=0,
        tick_step_lots=5,
        log_format="json",
    )


async def run(stack: LocalStack, settings: Settings, order: Order, logs: Path, report: Callable[..., Any]) -> Result:
    """Run the faults of an order, let pristine workers answer what is left, and judge.

    Workers of all jobs run, whatever the order's cells: the load is for all, and a record that nobody reads has no
    answer. The topics are to be new, the database empty, and the folder for the workers' logs there.
    """
    result = Result(order)
    began = monotonic()
    books = Books(settings)
    await books.prepare()
    since = await log_ends(settings)
    await apply_topics(settings, await plan_topics(settings))
    servers = settings_of_shards(settings)
    if len(servers) > 1:
        await prepare_shards(settings)
    inputs, load = Inputs(settings, books), Load(settings, order.seed, order.rate)
    around = Surroundings(stack, books, inputs, load, Random(order.seed), order.frozen_seconds)  # noqa: S311 - a workload
    groups = {
        job: Group([Start(job, server, logs / f"{job}.log", None, order.broken) for server in servers], around)
        for job in JOBS
    }
    watch = Watch(books, logs / "faults.log")
    names = [group.name for group in groups.values()]

    def disturb() -> None:
        for group in groups.values():
            watch.disturb(group)

    coordinators = Coordinators(stack, settings, names, disturb)
    async with _beside(inputs.run(), watch.run(), coordinators.run()):
        async with _beside(load.run(), stop=load.stop), _beside(*(group.keep() for group in groups.values())):
            await _faults(coordinators, groups, watch, result, report)
            await watch.recovery(list(groups.values()), order.recovery_seconds)
        result.stuck = await _drain(settings, groups, inputs, order.drain_seconds)
        for group in groups.values():
            await group.end()
            result.ends += group.ends
        await settled(settings)
    result.broker_restarts = coordinators.restarts
    result.verdict = await judge(settings, books, inputs, since)
    watch.report(result)
    for group in groups.values():
        for error in group.broken:
            result.verdict.note("broken", error)
    await books.close()
    result.seconds = monotonic() - began
    return result


@asynccontextmanager
async def _beside(*work: Any, stop: Callable[[], None] | None = None) -> AsyncIterator[None]:
    """Run something meanwhile: until it is told to stop and has, or cancelled. What it raises is not kept back."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        if stop is None:
            for task in tasks:
                task.cancel()
        else:
            stop()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _faults(
    coordinators: Coordinators, groups: dict[str, Group], watch: Watch, result: Result, report: Callable[..., Any]
) -> None:
    order = result.order
    deadline = monotonic() + order.seconds

    async def one_after_another(group: Group, row: Sequence[Cell]) -> None:
        for cell in row:
            if monotonic() < deadline:
                await _fault(group, cell, watch, result)
                report(result)

    for stage in plan(order.cells, order.faults, order.seed):
        if monotonic() > deadline:
            return
        if stage.server is None:
            await asyncio.gather(*(one_after_another(groups[job], row) for job, row in stage.cells.items() if row))
        else:
            await _kill_server(coordinators, groups, stage, watch, result)
            report(result)


async def _fault(group: Group, cell: Cell, watch: Watch, result: Result) -> None:
    watch.disturb(group)
    try:
        with group.busy():
            member = await group.reach(cell)
            before = await watch.before(group)
            await group.meet(cell.kind, member)
    except (NotMadeError, KafkaError, TimeoutError) as error:
        result.miss(cell, _reason(error))
        return
    result.faults[cell] += 1
    watch.expect(cell, before, member.pid)
    if result.faults.total() % _LET_RECOVER == 0:
        await watch.recovery([group], result.order.recovery_seconds)


async def _kill_server(
    coordinators: Coordinators, groups: dict[str, Group], stage: Stage, watch: Watch, result: Result
) -> None:
    """Kill a server while workers stand, let them go on into what is left, and start it again.

    Of several brokers it is one at random: each leads some partitions and coordinates some groups and transactions. So
    it is of several Postgres servers: the workers that stand are its own, and it is away until those of the others have
    stored something, or for a while.
    """
    stack, is_broker = coordinators.stack, stage.server is Kind.BROKER
    is_one_of_books = not is_broker and stack.databases > 1
    dice = Random(result.order.seed + result.server_kills.total())  # noqa: S311 - a workload
    number = dice.randint(1, stack.brokers if is_broker else stack.databases)
    kill, start = (stack.kill_kafka, stack.start_kafka) if is_broker else (stack.kill_postgres, stack.start_postgres)
    cells = {cell: groups[cell.job] for row in stage.cells.values() for cell in row[:1]}
    async with coordinators.servers:
        with ExitStack() as busy:
            for group in cells.values():
                watch.disturb(group)
                busy.enter_context(group.busy())
            own = {group: group.starts[number - 1] if is_one_of_books else None for group in cells.values()}
            standing = await asyncio.gather(*(_reach(group, cell, own[group], result) for cell, group in cells.items()))
            met = []
            for (cell, group), member in zip(cells.items(), standing, strict=True):
                if member is not None and member.gone.is_set():  # those of the other jobs took too long to come
                    result.miss(cell, "the worker at the point had ended")
                elif member is not None:
                    met.append((cell, member, await watch.before(group)))
            await asyncio.to_thread(kill, number)
            for cell, member, moment in met:
                result.faults[cell] += 1
                member.go()
                watch.expect(cell, moment, member.pid)
        result.server_kills[stage.server or ""] += 1
        if is_one_of_books:
            result.went_on[await watch.others_go_on(list(groups.values()), number)] += 1
        await asyncio.to_thread(start, number)
    if result.server_kills.total() % _LET_RECOVER == 0:
        await watch.recovery(list(cells.values()), result.order.recovery_seconds)


async def _reach(group: Group, cell: Cell, start: Start | None, result: Result) -> Member | None:
    try:
        return await group.reach(cell, start)
    except (NotMadeError, KafkaError, TimeoutError) as error:
        result.miss(cell, _reason(error))
        return None


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, NotMadeError) else f"of {type(error).__name__}"


async def _drain(settings: Settings, groups: dict[str, Group], inputs: Inputs, seconds: float) -> int:
    """Let workers that nobody touches answer all there is; return how many records they left.

    On a machine that is busy with other things there may be many: they are given up once so long none was answered.
    """
    places = inputs.places
    deadline = monotonic() + seconds
    left = least = 0
    async with admin_client(settings) as admin, reader(settings) as consumer:
        while monotonic() < deadline:
            for group in groups.values():
                group.ensure()
            ends = await consumer.end_offsets(places)
            left = sum(ends.values())  # where a group's coordinator does not answer, nothing speaks for its records
            with contextlib.suppress(KafkaError):
                for group in groups.values():
                    own = [place for place in places if _GROUPS[place.topic] == group.name]
                    published = await committed_offsets(admin, group.name, own)
                    left -= sum(published[place] or 0 for place in own)
                if not left:
                    await inputs.read_to(ends)
                    return 0
                if not least or left < least:
                    least, deadline = left, monotonic() + seconds
            await asyncio.sleep(0.2)
    return left
