"""`inmail up`: runs the stack and the workers in the foreground until Ctrl-C, and keeps the data."""

import asyncio
import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console

from infra.clock import utc_now
from infra.local.errors import ServerError, StartInterruptedError
from infra.local.ports import LOOPBACK
from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import connect_database
from infra.settings import Settings, load_settings
from infra.shutdown import stop_requested
from infra.terminal import Reporter, console
from schemas.billing import PromotionGranted, PromotionGrantedData
from schemas.catalogue import SEND_REQUESTS
from schemas.envelope import encode
from schemas.sends import SendRequested, SendRequestedData
from workers.errors import ChildError
from workers.ledger.store import FUNCTIONS
from workers.local.local_console import LocalConsole, serve_local_console
from workers.local.processes import WorkerProcesses
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["prepare_stack", "run_up", "stack_settings"]

_CHECK_SECONDS = 0.5
_SHORT_DRAIN_SECONDS = 3.0  # for workers without Kafka or Postgres, which cannot finish any work


def stack_settings(stack: LocalStack, **more: object) -> Settings:
    """Return the settings of the environment, with the stack's addresses and further values."""
    return load_settings(kafka_bootstrap_servers=stack.kafka_bootstrap_servers, database_url=stack.database_url, **more)


async def prepare_stack(settings: Settings) -> list[str]:
    """Migrate the database and create the topics; return a line for each change."""
    connection = await connect_database(settings)
    try:
        migrated = await migrate(connection, [FUNCTIONS])
    finally:
        await connection.close()
    changes = await plan_topics(settings)
    await apply_topics(settings, changes)
    done = [f"{len(migrated.applied)} migrations applied, {migrated.functions} functions in place"]
    return done + [f"{change.topic}: {change.text}" for change in changes]


async def run_up(data_dir: Path, kafka_port: int | None, postgres_port: int | None) -> None:
    """Run until SIGINT or SIGTERM, then drain the workers and stop the stack. Both signals work at any time.

    Raises:
        LocalStackError: when the stack cannot start, or a server ended; the message says what to do.
        ChildError: when a worker ended by itself, or did not drain.

    """
    out = console()
    stop = stop_requested()
    stack = LocalStack(data_dir, kafka_port, postgres_port, report=Reporter(out))
    if not await _start_stack(stack, stop):
        out.print("stopped before the stack was up")
        return
    try:
        settings = stack_settings(stack)
        preparing = asyncio.create_task(prepare_stack(settings))
        if await _wait_for(stop, stack.check, preparing):
            for line in preparing.result():
                out.print(f"  {line}")
            await _run_with_console(stack, settings, data_dir, stop, out)
    finally:
        await asyncio.to_thread(stack.stop)
        out.print("stopped")


async def _start_stack(stack: LocalStack, stop: asyncio.Event) -> bool:
    """Start the stack and return whether it is up: False when `stop` was set first."""
    starting = asyncio.create_task(asyncio.to_thread(stack.start))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not starting.done():
        stack.interrupt()
    with contextlib.suppress(StartInterruptedError):
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


async def _run_with_console(
    stack: LocalStack, settings: Settings, data_dir: Path, stop: asyncio.Event, out: Console
) -> None:
    """Run the workers and the console until `stop` is set, then drain the workers."""
    async with serve_local_console(settings) as page:
        await _run_workers(page, stack, settings, data_dir, stop, out)


async def _run_workers(  # noqa: PLR0913, PLR0917 - the console, the stack, the logs and the stop signal
    page: LocalConsole, stack: LocalStack, settings: Settings, data_dir: Path, stop: asyncio.Event, out: Console
) -> None:
    workers = WorkerProcesses(settings, data_dir / "logs", probes=page.probes)

    def check() -> None:
        stack.check()  # first, because a worker may end when a server ends
        workers.check()

    workers.start()
    drain_seconds: float | None = None
    try:
        out.print(_usage_text(stack, data_dir, page), soft_wrap=True)
        await _wait_for(stop, check)
        out.print("\ndraining the workers ...")
    except ServerError:
        drain_seconds = _SHORT_DRAIN_SECONDS
        raise
    finally:
        codes = await asyncio.to_thread(workers.stop, drain_seconds)
    if failed := [name for name, code in codes.items() if code]:
        raise ChildError("\n".join(f"{name} did not drain: see {workers.log_path(name)}" for name in failed))
    out.print("all drained")


def _usage_text(stack: LocalStack, data_dir: Path, page: LocalConsole) -> str:
    """Return the commands to use the stack from another terminal, ready to paste."""
    servers = stack.kafka_bootstrap_servers
    inmail = _program_name()
    now = utc_now()
    gift = PromotionGrantedData(credits=3, promotion_id="welcome")
    grant = PromotionGranted.create(id=uuid4(), source="/terminal", subject="alice", time=now, data=gift)
    data = SendRequestedData(recipient_id="bob", relationship="none")
    send, other = (
        SendRequested.create(id=uuid4(), source="/terminal", subject="alice", time=now, data=data) for _ in range(2)
    )
    metrics = "\n           ".join(f"http://{LOOPBACK}:{port}/metrics ({name})" for name, port in page.probes.items())
    return f"""
Console    {page.sign_in_hint}
Kafka      {servers}
Postgres   {stack.database_url}
Metrics    {metrics}
Logs       {data_dir / "logs"}
The ports of Kafka and Postgres are saved in {data_dir}: the next start uses them again if they are free.

In another terminal:

  export INMAIL_KAFKA_BOOTSTRAP_SERVERS={servers}
  export INMAIL_DATABASE_URL={stack.database_url}
  {inmail} results --follow

In a third, with the same exports, give alice credits, send a message as alice, and see the result:

  echo {shlex.quote(encode(grant).decode())} | {inmail} publish -
  echo {shlex.quote(encode(send).decode())} | {inmail} publish -
  {inmail} statement alice
  {inmail} trace --account alice
  {inmail} lag --watch
  {inmail} metrics

Your own producer must use the account as the key. With kcat:

  echo 'alice:{encode(other).decode()}' |
    kcat -P -b {servers} -t {SEND_REQUESTS} -K: -X partitioner=murmur2_random

Ctrl-C drains the workers and stops everything; the data is kept."""


def _program_name() -> str:
    """Return the command that runs this program from a shell in this directory."""
    if shutil.which("inmail") is not None:
        return "inmail"
    beside = Path(sys.executable).with_name("inmail")
    if not beside.is_file():
        return f"{sys.executable} -m workers.cli"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
