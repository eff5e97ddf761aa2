"""A worker process of the matrix: the worker as it is run, with a gate around what it calls."""

import asyncio
import ctypes
import os
import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra import postgres
from infra.kafka.clients import NotSetUpError
from infra.log import configure_logging, quiet_late_errors
from infra.postgres import is_transient
from infra.settings import Settings
from tests.crash.broken import BROKEN
from tests.crash.gate import CLAIM, Gate
from tests.crash.points import Phase
from workers.errors import WorkerError
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.lane import opening, recovery, worker
from workers.lane.worker import run_worker
from workers.ledger.plans import load_catalogue

__all__ = ["SESSION_SECONDS", "Start", "application", "main"]

SESSION_SECONDS = 1.5  # settings allow no less than 6: a run of a thousand faults has no time for that
_PR_SET_PDEATHSIG = 1
_HEARS_LESS = 10  # one process in so many
_ALL_FORGOTTEN = 0.1  # of what such a process asks for


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker process is started with."""

    job: str
    settings: Settings
    log: Path
    armed: tuple[str, Phase, int] | None
    broken: str | None


def application(pid: int) -> str:
    """Return the name by which Postgres knows a process's connections."""
    return f"crash-{pid}"


def main(start: Start, pipe: Connection) -> None:
    """Work until told to stop. What ended it is told to the controller, with whether a supervisor's restart helps."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also when it is stopped
    log = os.open(start.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    configure_logging(start.settings)
    _hurry()
    if start.broken is not None:
        BROKEN[start.broken]()
    elif os.getpid() % _HEARS_LESS == 0:
        _hear_less(start.settings)
    _note_claims()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        quiet_late_errors(runner.get_loop())
        runner.run(_run(start, pipe))


def _hurry() -> None:
    """Make the group notice a lost member soon, and name this process's connections."""
    create = worker.create_consumer

    def hasty(*arguments: Any) -> AIOKafkaConsumer:
        consumer = create(*arguments)
        consumer._session_timeout_ms = round(SESSION_SECONDS * 1000)
        consumer._heartbeat_interval_ms = round(SESSION_SECONDS * 100)
        return consumer

    worker.create_consumer = hasty
    postgres._SERVER_SETTINGS["application_name"] = application(os.getpid())


def _hear_less(settings: Settings) -> None:
    """Be told of less than is noted as published, as by a broker of 4.2.1 that has just been started after a crash.

    And not ask for long whether it is so. What is published and not noted yet is beyond what a lane can know. Never of
    more than is true: a row notes up to where answers may be published while that is in doubt.
    """
    told, dice = opening.committed_offsets, Random(os.getpid())  # noqa: S311 - a workload

    async def less(admin: AIOKafkaAdminClient, group: str, places: list[TopicPartition]) -> dict[TopicPartition, Any]:
        offsets = await told(admin, group, places)
        connection = await postgres.connect_database(settings)
        try:
            for place in places:
                noted = await connection.fetchval(
                    "select published from lanes where (consumer_group, topic, partition) = ($1, $2, $3)", group, *place
                )
                if noted and (true := offsets[place]) is not None:
                    forgot = dice.randrange(1, 300)
                    offsets[place] = min(true, max(0, noted - forgot)) if dice.random() > _ALL_FORGOTTEN else None
        finally:
            await connection.close()
        return offsets

    opening.committed_offsets = less
    recovery._ATTEMPTS = 1


def _note_claims() -> None:
    """Note with each batch, in its transaction, which epoch it was stored for and which the lane had then."""
    execute = asyncpg.Connection.execute

    async def noted(self: Any, query: str, *arguments: Any, **options: Any) -> str:
        done = await execute(self, query, *arguments, **options)
        if query.startswith(CLAIM) and done == f"UPDATE {len(arguments[2])}":
            await execute(
                self,
                "insert into crash_claims select l.consumer_group, l.partition, u.epoch, l.epoch"
                " from lanes as l join unnest($3::integer[], $4::bigint[]) as u (partition, epoch) using (partition)"
                " where l.consumer_group = $1 and l.topic = $2",
                *arguments[:4],
            )
        return done

    asyncpg.Connection.execute = noted  # type: ignore[method-assign,assignment]


async def _run(start: Start, pipe: Connection) -> None:
    gate = Gate(pipe, start.settings, start.armed)
    gate.install()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    gate.listen()
    gate.tell("ready")
    error: Exception | None = None
    try:
        await _work(start, stop)
    except Exception as raised:  # noqa: BLE001 - told to the controller, which fails unless a restart may help
        error = raised
        traceback.print_exc()
    gate.tell("ended", repr(error) if error else "", error is None or _may_pass(error))


async def _work(start: Start, stop: asyncio.Event) -> None:
    catalogue, settings = load_catalogue(start.settings.plans_file), start.settings
    match start.job:
        case "send":
            await run_worker(SendJob(catalogue), settings, stop)
        case "billing":
            await run_worker(BillingJob(catalogue), settings, stop)
        case _:
            await run_worker(ExpiryJob(catalogue, settings), settings, stop)


def _may_pass(error: Exception) -> bool:
    """Tell whether a worker may end so: a supervisor starts it again, and that helps."""
    return isinstance(error, WorkerError | KafkaError | NotSetUpError) or is_transient(error)
