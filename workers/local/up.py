"""`inmail up`: the stack and the workers in the foreground, their data kept, until Ctrl-C."""

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
from workers.local.page import ConsolePage, console_beside
from workers.local.processes import COMMAND_MODULE, Workers
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["prepare", "run_up", "stack_settings"]

_CHECK_SECONDS = 0.5
_CUT_SHORT_SECONDS = 3.0  # for workers whose Kafka or Postgres is gone: they cannot finish anything


def stack_settings(stack: LocalStack, **more: object) -> Settings:
    """Return the settings of this environment, with the stack's addresses."""
    return load_settings(kafka_bootstrap_servers=stack.kafka_bootstrap_servers, database_url=stack.database_url, **more)


async def prepare(settings: Settings) -> list[str]:
    """Migrate and make the topics; return what was done, a line each."""
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
    """Run until SIGINT or SIGTERM, then drain the workers and stop the stack. Either is obeyed at any time.

    Raises:
        LocalStackError: when the stack cannot be started, or a server ended; the message says what to do.
        ChildError: when a worker ended by itself, or could not drain.

    """
    out = console()
    stop = stop_requested()
    stack = LocalStack(data_dir, kafka_port, postgres_port, report=Reporter(out))
    if not await _start(stack, stop):
        out.print("stopped before it was up")
        return
    try:
        settings = stack_settings(stack)
        preparing = asyncio.create_task(prepare(settings))
        if await _watch(stop, stack.check, preparing):
            for line in preparing.result():
                out.print(f"  {line}")
            await _work(stack, settings, data_dir, stop, out)
    finally:
        await asyncio.to_thread(stack.stop)
        out.print("stopped")


async def _start(stack: LocalStack, stop: asyncio.Event) -> bool:
    """Start the stack; tell whether it is up. It is not when `stop` came first."""
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


async def _watch(stop: asyncio.Event, check: Callable[[], None], task: "asyncio.Task[Any] | None" = None) -> bool:
    """Wait until the task is done, or `stop` set; tell whether the task is. It is cancelled otherwise.

    Raises whatever `check` raises meanwhile.
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
        await asyncio.wait(tasks, timeout=_CUT_SHORT_SECONDS)


async def _work(stack: LocalStack, settings: Settings, data_dir: Path, stop: asyncio.Event, out: Console) -> None:
    """Run the workers and the console until `stop` is set, and drain them."""
    async with console_beside(settings) as page:
        await _work_beside(page, stack, settings, data_dir, stop, out)


async def _work_beside(  # noqa: PLR0913, PLR0917 - what they run on, where they log, when they end
    page: ConsolePage, stack: LocalStack, settings: Settings, data_dir: Path, stop: asyncio.Event, out: Console
) -> None:
    workers = Workers(settings, data_dir / "logs", probes=page.probes)

    def check() -> None:
        stack.check()  # first: a worker may end because a server did
        workers.check()

    workers.start()
    drain_seconds: float | None = None
    try:
        out.print(_greeting(stack, data_dir, page), soft_wrap=True)
        await _watch(stop, check)
        out.print("\ndraining the workers ...")
    except ServerError:
        drain_seconds = _CUT_SHORT_SECONDS
        raise
    finally:
        codes = await asyncio.to_thread(workers.stop, drain_seconds)
    if failed := [name for name, code in codes.items() if code]:
        raise ChildError("\n".join(f"{name} did not drain: see {workers.log(name)}" for name in failed))
    out.print("all drained")


def _greeting(stack: LocalStack, data_dir: Path, page: ConsolePage) -> str:
    """Return what somebody needs to use the stack from another terminal, ready to be pasted."""
    servers = stack.kafka_bootstrap_servers
    inmail = _command()
    now = utc_now()
    gift = PromotionGrantedData(credits=3, promotion_id="welcome")
    grant = PromotionGranted.create(id=uuid4(), source="/terminal", subject="alice", time=now, data=gift)
    data = SendRequestedData(recipient_id="bob", relationship="none")
    send, other = (
        SendRequested.create(id=uuid4(), source="/terminal", subject="alice", time=now, data=data) for _ in range(2)
    )
    metrics = "\n           ".join(f"http://{LOOPBACK}:{port}/metrics ({name})" for name, port in page.probes.items())
    return f"""
Console    {page.greeting}
Kafka      {servers}
Postgres   {stack.database_url}
Metrics    {metrics}
Logs       {data_dir / "logs"}
The ports of Kafka and Postgres are kept in {data_dir}: the next start uses them again while they are free.

In another terminal:

  export INMAIL_KAFKA_BOOTSTRAP_SERVERS={servers}
  export INMAIL_DATABASE_URL={stack.database_url}
  {inmail} results --follow

In a third, with the same exports, give alice credits, let her send, and ask what became of it:

  echo {shlex.quote(encode(grant).decode())} | {inmail} publish -
  echo {shlex.quote(encode(send).decode())} | {inmail} publish -
  {inmail} statement alice
  {inmail} trace --account alice
  {inmail} lag --watch
  {inmail} metrics

A producer of your own sends the account as the key. With kcat:

  echo 'alice:{encode(other).decode()}' |
    kcat -P -b {servers} -t {SEND_REQUESTS} -K: -X partitioner=murmur2_random

Ctrl-C drains the workers and stops everything; the data stays."""


def _command() -> str:
    """Return how this program is called from a shell in this folder."""
    if shutil.which("inmail") is not None:
        return "inmail"
    beside = Path(sys.executable).with_name("inmail")
    if not beside.is_file():
        return f"{sys.executable} -m {COMMAND_MODULE}"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
