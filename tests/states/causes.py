"""How each state is caused for real, and ended again."""

import asyncio
import math
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from infra.postgres import Connection, connect_database
from schemas.catalogue import SEND_REQUESTS
from tests.states.surfaces import ENDPOINT
from tests.states.timeline import Right
from tests.states.world import CauseError, World

__all__ = [
    "breaker",
    "database_away",
    "frozen",
    "held",
    "idle",
    "killed",
    "killed_and_restarted",
    "locked",
    "observer_again",
    "poison",
    "rewound",
    "server_away",
    "slow",
    "stopped",
]

_SLOW_ROW_SECONDS = 1.0
_REWOUND_RECORDS = 120_000  # read again in 10 s at least: two looks of an observer after the worker has joined
_CATCH_UP_SECONDS = 120.0
_BURST_OVER = 300  # records in 3 s: the load makes a fifth of them
_PATIENCE = (
    "set lock_timeout = '60s'; set idle_in_transaction_session_timeout = 0"  # ours give up soon, others need not
)
_READ_TO = "select sum(next_offset)::bigint from lanes where topic = $1"


@asynccontextmanager
async def idle(world: World) -> AsyncIterator[None]:
    """Let nothing arrive but ticks."""
    world.load.rest()
    yield
    world.load.go_on()


@asynccontextmanager
async def stopped(world: World) -> AsyncIterator[None]:
    """Stop the send worker in order."""
    await world.members.end("send", signal.SIGTERM)
    yield
    world.members.start("send")


@asynccontextmanager
async def killed(world: World) -> AsyncIterator[None]:
    """Kill the send worker: it leaves its group only when its session is over."""
    await world.members.end("send", signal.SIGKILL)
    yield
    world.members.start("send")


@asynccontextmanager
async def killed_and_restarted(world: World) -> AsyncIterator[None]:
    """Kill the send worker and start another at once, as a supervisor does: its group waits for the dead one."""
    await world.members.end("send", signal.SIGKILL)
    world.members.start("send")
    yield


@asynccontextmanager
async def frozen(world: World) -> AsyncIterator[None]:
    """Freeze the send worker: it is there, and does nothing."""
    world.members.signal("send", signal.SIGSTOP)
    yield
    world.members.signal("send", signal.SIGCONT)


@asynccontextmanager
async def _session(world: World) -> AsyncIterator[Connection]:
    """Open a session of somebody who waits for locks, and holds them, for as long as it takes."""
    connection = await connect_database(world.settings)
    try:
        await connection.execute(_PATIENCE)
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def slow(world: World) -> AsyncIterator[None]:
    """Let each row that is booked take its time: fewer are decided than come."""
    async with _session(world) as connection:
        await connection.execute(
            "create function sleep_a_while() returns trigger language plpgsql as"
            f" $$ begin perform pg_sleep({_SLOW_ROW_SECONDS}); return new; end $$"
        )
        await connection.execute(
            "create trigger slow before insert on journal for each row execute function sleep_a_while()"
        )
        world.caused()
        yield
        # The batch at hand sleeps on for each of its rows, with the lock that the trigger's end waits for.
        world.ended()
        await connection.execute("create or replace function sleep_a_while() returns trigger language plpgsql as"
                                 " $$ begin return new; end $$")  # fmt: skip
        await connection.execute("drop function sleep_a_while() cascade", timeout=120)


@asynccontextmanager
async def locked(world: World) -> AsyncIterator[None]:
    """Hold a lock on the accounts in a session that does nothing else."""
    async with _session(world) as connection:
        await connection.execute("begin")
        await connection.execute("lock table accounts in access exclusive mode")
        world.caused()
        yield


@asynccontextmanager
async def held(world: World) -> AsyncIterator[None]:
    """Begin a transaction on the requests, write to each partition, and leave it open."""
    producer = AIOKafkaProducer(
        **world.settings.kafka_client(), transactional_id="states-open", transaction_timeout_ms=600_000
    )
    async with producer:
        await producer.begin_transaction()
        for partition in range(world.settings.topic_partitions):
            await (await producer.send(SEND_REQUESTS, b"never committed", partition=partition))
        world.caused()
        yield
        await producer.abort_transaction()


@asynccontextmanager
async def rewound(world: World) -> AsyncIterator[None]:
    """Set the group of the send worker back by a burst of requests, and start the worker again."""
    began = datetime.now(UTC).isoformat()
    await world.load.burst(_REWOUND_RECORDS)
    await asyncio.sleep(10)  # two looks: the burst has been seen
    await world.hears(ENDPOINT, Right("inmail-send", "OK"), _CATCH_UP_SECONDS)
    await _read_up(world)
    await world.members.end("send", signal.SIGTERM)
    command = [
        "replay",
        "rewind",
        "send",
        "--to-time",
        began,
        "--publish-again",
        "--because",
        "to see it told",
        "--yes",
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers.cli", *command, env=world.members.environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    if process.returncode:
        raise CauseError(f"the rewind was refused: {said.decode()[-500:]}")
    world.caused()
    world.members.start("send")
    yield


async def _read_up(world: World) -> None:
    """Wait until the send lanes no longer come forward faster than the load: the burst is decided."""
    connection = await connect_database(world.settings)
    reached = -math.inf
    try:
        async with asyncio.timeout(_CATCH_UP_SECONDS):
            while True:
                now = await connection.fetchval(_READ_TO, SEND_REQUESTS)
                if now - reached < _BURST_OVER:
                    return
                reached = now
                await asyncio.sleep(3)
    finally:
        await connection.close()


@asynccontextmanager
async def database_away(world: World) -> AsyncIterator[None]:
    """Kill the database server, and start it again."""
    await asyncio.to_thread(world.stack.kill_postgres)
    yield
    await asyncio.to_thread(world.stack.start_postgres)
    world.ended()


@asynccontextmanager
async def server_away(world: World) -> AsyncIterator[None]:
    """Kill the second Postgres server, and start it again: the first one, and its workers, go on."""
    await asyncio.to_thread(world.stack.kill_postgres, 2)
    yield
    await asyncio.to_thread(world.stack.start_postgres, 2)
    world.ended()


@asynccontextmanager
async def observer_again(world: World) -> AsyncIterator[None]:
    """Let a lock stall the workers until lag says so, and start its observer again in the middle of it."""
    async with locked(world):
        await world.hears(ENDPOINT, Right("inmail-send", "LOCKED"), _CATCH_UP_SECONDS)
        world.members.signal("lag", signal.SIGTERM)
        world.caused()
        await world.members.ended("lag")
        world.members.start("lag")
        yield


@asynccontextmanager
async def poison(world: World) -> AsyncIterator[None]:
    """Publish a few records that nobody can decode: dead letters."""
    await world.load.nonsense(40)
    world.caused()
    yield


@asynccontextmanager
async def breaker(world: World) -> AsyncIterator[None]:
    """Publish so many of them that the breaker ends the worker; then let them through."""
    await world.load.nonsense(1_500)
    world.caused()
    await world.members.ended("send")
    yield
    world.members.start("send", INMAIL_DEAD_LETTER_SHARE="1")
