"""`inmail up`: runs the stack and the workers in the foreground until Ctrl-C, and keeps the data."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from infra.local.directories import kept_brokers, kept_databases
from infra.local.errors import ServerError, StartInterruptedError
from infra.local.stack import LocalStack
from infra.log import configure_logging
from infra.migrate import migrate
from infra.postgres import open_database
from infra.settings import Settings, load_settings
from infra.shards import settings_of_shards
from infra.shutdown import create_stop_event
from infra.terminal import Reporter, console
from workers.commands.views.doctor import result_line
from workers.errors import ChildError
from workers.ledger.store import FUNCTIONS
from workers.local.control import data_option, serve_control
from workers.local.environment_file import environment_file
from workers.local.greeting import greeting
from workers.local.local_console import probe_ports, serve_local_console
from workers.local.processes import WorkerProcesses, member_names
from workers.local.servers import broker_processes, database_processes
from workers.local.shards import prepare_shards
from workers.local.supervision import WorkerSupervisor
from workers.ops.doctor import CheckResult, Grade, run_checkup
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["StackSize", "prepare_stack", "run_up", "stack_settings", "start_stack"]

_REPLICAS = 3
_CHECK_SECONDS = 0.5
_SHORT_DRAIN_SECONDS = 3.0  # for workers without Kafka or Postgres, which cannot finish any work


class StackSize(NamedTuple):
    """How much `inmail up` runs."""

    brokers: int | None = None  # None: as many as the data directory has, or one
    workers: int = 1  # members of each worker, for each Postgres server
    databases: int | None = None  # None: as many as the data directory has, or one


def stack_settings(stack: LocalStack, **more: object) -> Settings:
    """Return the settings of the environment, with the stack's addresses and further values.

    Topics of a stack with several brokers have three replicas, unless the environment says how many.
    """
    if stack.brokers > 1 and "topic_replication" not in load_settings().model_fields_set:
        more = {"topic_replication": min(stack.brokers, _REPLICAS)} | more
    if stack.databases > 1 or "database_shards" in load_settings().model_fields_set:
        more = {"database_shards": " ".join(stack.database_urls) if stack.databases > 1 else ""} | more
    return load_settings(kafka_bootstrap_servers=stack.kafka_bootstrap_servers, database_url=stack.database_url, **more)


async def start_stack(stack: LocalStack) -> None:
    """Start the stack in a thread. A cancellation interrupts the start, and raises once nothing of it runs any more.

    Raises:
        LocalStackError: when the stack cannot start.

    """
    starting = asyncio.create_task(asyncio.to_thread(stack.start))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        stack.interrupt()
        with contextlib.suppress(StartInterruptedError):
            await starting
            await asyncio.to_thread(stack.stop)  # it was up before it noticed
        raise


async def prepare_stack(settings: Settings) -> list[str]:
    """Migrate the databases, create the topics and spread the numbers; return a line for each change."""
    servers = settings_of_shards(settings)
    done = []
    for number, server in enumerate(servers, 1):
        async with open_database(server, patient=True) as connection:  # indexing a large journal takes minutes
            migrated = await migrate(connection, [FUNCTIONS])
        name = f"Postgres {number}: " if len(servers) > 1 else ""
        done.append(f"{name}{len(migrated.applied)} migrations applied, {migrated.functions} functions in place")
    changes = await plan_topics(settings)
    await apply_topics(settings, changes)
    done += [f"{change.topic}: {change.text}" for change in changes]
    return done + (await prepare_shards(settings) if len(servers) > 1 else [])


async def run_up(
    data_dir: Path,
    kafka_port: int | None,
    postgres_port: int | None,
    usual_ports: Mapping[str, int],
    size: StackSize,
) -> None:
    """Run until SIGINT or SIGTERM, then drain the workers and stop the stack. Both signals work at any time.

    A worker that ends is started again, and so is one of several brokers or Postgres servers; the rest goes on
    meanwhile.

    Raises:
        LocalStackError: when the stack cannot start, or a server ended; the message says what to do.
        ChildError: when a worker did not drain.

    """
    out = console()
    stop = create_stop_event()
    stack = LocalStack(
        data_dir,
        kafka_port,
        postgres_port,
        Reporter(out),
        usual_ports=usual_ports,
        brokers=size.brokers or kept_brokers(data_dir) or 1,
        databases=size.databases or kept_databases(data_dir) or 1,
    )
    if not await _start_until(stop, stack):
        out.print("stopped before the stack was up")
        return
    try:
        settings = stack_settings(stack)
        preparing = asyncio.create_task(prepare_stack(settings))
        if await _wait_for(stop, stack.check, preparing):
            for line in preparing.result():
                out.print(f"  {line}")
            checking = asyncio.create_task(_check_up(settings, out))
            if not await _wait_for(stop, stack.check, checking):
                return
            checking.result()
            with _logs_in(settings, data_dir / "logs" / "up.log"):
                await _work(stack, settings, data_dir, size.workers, stop, out)
    finally:
        await asyncio.to_thread(stack.stop)
        out.print("stopped")


async def _start_until(stop: asyncio.Event, stack: LocalStack) -> bool:
    """Start the stack and return whether it is up: False when `stop` was set first."""
    starting = asyncio.create_task(start_stack(stack))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    starting.cancel()  # no effect once it is done
    with contextlib.suppress(asyncio.CancelledError):
        await starting
        return True
    return False


async def _wait_for(stop: asyncio.Event, check: Callable[[], None], task: "asyncio.Task[Any] | None" = None) -> bool:
    """Wait until the task is done or `stop` is set, and return whether the task is done; otherwise cancel it.

    Raises errors of `check`, which is called every 0.5 s.
    """
    stopped = asyncio.create_task(stop.wait())
    tasks = [stopped] if task is None else [stopped, task]
    try:
        while not any(each.done() for each in tasks):
            check()
            await asyncio.wait(tasks, timeout=_CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return task is not None and task.done()
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks, timeout=_SHORT_DRAIN_SECONDS)


async def _check_up(settings: Settings, out: Console) -> None:
    """Look at everything that the guarantees rest on, and tell what is not as it has to be.

    The workers start all the same: whether one can work with what is wrong it finds out by itself, and says so.
    """

    def tell(result: CheckResult) -> None:
        if result.grade is not Grade.OK:
            out.print(result_line(result), soft_wrap=True)

    report = await run_checkup(settings, before_start=True, tell=tell, say=lambda line: out.print(f"  {line}"))
    if report.grade is Grade.OK:
        out.print(f"  check-up: {len(report.results)} things looked at, all as they have to be")


@contextlib.contextmanager
def _logs_in(settings: Settings, log: Path) -> Iterator[None]:
    """Write what this process and its libraries log to a file: the terminal is for sentences."""
    quiet = settings.model_copy(update={"log_level": "WARNING"})
    with log.open("a", encoding="utf-8") as file:
        configure_logging(quiet, file)
        try:
            yield
        finally:
            configure_logging(quiet)


async def _work(  # noqa: PLR0913, PLR0917 - what `run_up` has opened
    stack: LocalStack, settings: Settings, data_dir: Path, members: int, stop: asyncio.Event, out: Console
) -> None:
    """Run the workers and the console until `stop` is set, and drain them."""
    with contextlib.ExitStack() as held:
        names = member_names(members, stack.databases)
        probes = held.enter_context(probe_ports(names))
        workers = WorkerProcesses(settings, data_dir / "logs", names, probes=probes)
        servers = [broker_processes(stack)] if stack.brokers > 1 else []
        servers += [database_processes(stack)] if stack.databases > 1 else []
        supervisor = WorkerSupervisor(
            workers,
            lambda line: out.print(line, soft_wrap=True),
            servers=servers,
            data_option=data_option(data_dir),
        )

        def check() -> None:
            stack.check()  # first: a worker may end because a server did
            supervisor.look()

        drain_seconds: float | None = None
        try:
            kept = settings.model_copy(
                update={"console_history_file": settings.console_history_file or str(data_dir / "console-history.json")}
            )
            async with serve_local_console(kept, probes, supervisor) as page, serve_control(supervisor, data_dir):
                environment = held.enter_context(environment_file(data_dir, settings))
                supervisor.start()
                out.print(greeting(stack, data_dir, environment, page), soft_wrap=True)
                await _wait_for(stop, check)
                out.print("\ndraining the workers ...")
        except ServerError:
            drain_seconds = _SHORT_DRAIN_SECONDS
            raise
        finally:
            codes = await supervisor.stop(drain_seconds)
    if failed := [name for name, code in codes.items() if code]:
        raise ChildError("\n".join(f"{name} did not drain: see {workers.log_path(name)}" for name in failed))
    out.print("all drained")
