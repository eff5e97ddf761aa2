"""What tests share: one local stack a run, a fresh database a test."""

import asyncio
import gc
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path
from typing import TypeAlias

import asyncpg
import hypothesis
import psutil
import pytest
import structlog
import uvloop
from pydantic import SecretStr

from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.output import note_json
from infra.postgres import connect_database
from infra.settings import Settings, load_settings
from tests.kept_readers import keep_readers
from tests.whole import ALL

FUNCTIONS = Path(__file__).parents[1] / "workers" / "ledger" / "sql"
# Tests kill servers, not machines: what a server has written survives it without waiting for a disk. The copies of the
# template would otherwise be most of what is written and, at the end, removed.
MORTAL = {"fsync": "off", "min_wal_size": "80MB", "max_wal_size": "1GB"}
HASTY = MORTAL | {"full_page_writes": "off"}  # of a server that no test kills, which may be half-way through a page
TEMPLATE = "template_inmail"  # a server's migrated and empty database, which others are copied from
# Another process may have the core for seconds: what that keeps waiting is no fault of what draws the examples.
hypothesis.settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared machine")
# Files are dealt to processes in turn, and a long one at the end would leave a core idle: the longest, and the folders
# of short ones.
LONG = {
    "cluster/test_cluster.py",
    "crash/test_crash.py",
    "ledger/test_histories.py",
    "rights/test_rights.py",
    "system/test_local_stack.py",
    "workers/lane/test_lane_ends.py",
    "workers/lane/test_restarts.py",
    "workers/local/test_one_up.py",
    "workers/ops/books/test_audit_new.py",
    "workers/ops/books/test_sound_books.py",
    "workers/ops/dead_letters/test_redrive.py",
    "workers/ops/replay/test_rebuild.py",
    "workers/ops/replay/test_rewind.py",
    "workers/ops/shards/test_move.py",
    "workers/ops/topics/test_ended.py",
    "workers/telemetry/test_health.py",
    "workers/test_order.py",
    "workers/test_scenarios_kafka.py",
}
SHORT = {"house", "schemas"}
_numbers = count(1)
# Connects to a database; the connection is closed at the end of the test.
Connect: TypeAlias = Callable[[Settings], Awaitable["asyncpg.Connection[asyncpg.Record]"]]
_finished: list[str] = []  # databases of tests that have ended
_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps files in memory
_ROOM = 4 * 2**30  # bytes: several times what the servers of three processes hold

# A shell without job control (`make test &` in a script) starts its background with SIGINT ignored, which processes
# inherit: those under test would not be interrupted as a user's are.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _has_room(folder: Path) -> bool:
    """Tell whether the servers' files, and programs among them, can be in a folder in memory."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    free = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available)
    return free > _ROOM and not found.f_flag & os.ST_NOEXEC


# A test's own database is 400 files: on a disk, to make and remove them took most of a test's time.
if "TMPDIR" not in os.environ and _has_room(_MEMORY):
    os.environ["TMPDIR"], tempfile.tempdir = str(_MEMORY), None  # here, and in the processes that tests start

gc.disable()  # until all tests are collected: a sixth of that was to look for garbage among modules and tests


def _file_of(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).as_posix()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is `whole`, where neither all is asked for nor a test by its name; put the long files first."""
    if not ALL and not any("::" in argument for argument in config.args):
        left_out = [item for item in items if item.get_closest_marker("whole")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("whole")]
    items.sort(key=lambda item: (_file_of(item) not in LONG, item.path.parent.name in SHORT))
    gc.freeze()  # they stay
    gc.enable()


@pytest.fixture(scope="session")
def _asyncio_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Have tests run on the loop that workers run on: pytest-asyncio's own fixture, whose hook would reorder tests."""
    return uvloop.new_event_loop


@pytest.fixture(autouse=True)
def _restore_process() -> Iterator[None]:
    """Restore what a command in this process sets: later tests would see warnings only, and errors as JSON."""
    root, client = logging.getLogger(), logging.getLogger("aiokafka")
    handlers, level, of_client, configuration = root.handlers, root.level, client.level, structlog.get_config()
    yield
    root.handlers = handlers
    root.setLevel(level)
    client.setLevel(of_client)
    note_json(asked=False)
    structlog.configure(**configuration)


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """Real Kafka and real Postgres for the whole run."""
    with LocalStack(postgres_settings=HASTY) as running:
        yield running


@pytest.fixture(scope="session")
async def template(stack: LocalStack) -> str:
    """A migrated database that each test's own is copied from."""
    admin = await asyncpg.connect(stack.database_url)
    await admin.execute(f"create database {TEMPLATE}")
    await admin.close()
    settings = _settings(stack, TEMPLATE)
    connection = await connect_database(settings)
    try:
        await migrate(connection, [FUNCTIONS])
    finally:
        await connection.close()
    return TEMPLATE


@pytest.fixture(scope="session")
async def kept_readers(stack: LocalStack) -> AsyncIterator[None]:
    """Readers of the stack's topics that are opened once a run."""
    async with keep_readers(_settings(stack, TEMPLATE)):
        yield


@pytest.fixture
async def settings(
    stack: LocalStack,
    template: str,
    kept_readers: None,  # noqa: ARG001 - what `tests.workers.wire` asks
) -> AsyncIterator[Settings]:
    """Settings for the running stack and a database of the test's own, migrated and empty."""
    own = await _copy(stack, template)
    yield own
    finish(own)


@pytest.fixture
def other_books(stack: LocalStack, template: str) -> Iterator[Callable[[], Awaitable[Settings]]]:
    """Give settings for one more database on the same stack, as often as it is called."""
    made: list[Settings] = []

    async def copy() -> Settings:
        made.append(await _copy(stack, template))
        return made[-1]

    yield copy
    for each in made:
        finish(each)


@pytest.fixture(scope="module")
async def shared(stack: LocalStack, template: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a database that the tests of a module share, migrated and empty at first."""
    connection = await connect_database(await _copy(stack, template))
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def other_shared(stack: LocalStack, template: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to one more database that the tests of a module share, migrated and empty at first."""
    connection = await connect_database(await _copy(stack, template))
    yield connection
    await connection.close()


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to the test's own database."""
    connection = await connect_database(settings)
    yield connection
    await connection.close()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect to a database, as often as it is called; the connections are closed however the test ends.

    A failed test's traceback keeps an open one until a later test, which would fail with the ResourceWarning of it.
    """
    with ExitStack() as opened:

        async def connect_until_the_end(settings: Settings) -> "asyncpg.Connection[asyncpg.Record]":
            connection = await connect_database(settings)
            opened.callback(connection.terminate)  # it may be within a statement or a transaction
            return connection

        yield connect_until_the_end


def finish(settings: Settings) -> None:
    """Have the database of a test that has ended removed before the next one is made."""
    _finished.append(database_name(settings))


def database_name(settings: Settings) -> str:
    """Return the name of a database."""
    return settings.database_url.get_secret_value().rpartition("/")[2]


async def _copy(stack: LocalStack, template: str) -> Settings:
    name = f"test_{next(_numbers)}"
    admin = await asyncpg.connect(stack.database_url)
    while _finished:  # young files are removed before anything writes them to a disk; at the end they took 20 s
        await admin.execute(f"drop database {_finished.pop()} with (force)")
    await admin.execute(f"create database {name} template {template} strategy file_copy")
    await admin.close()
    return _settings(stack, name)


def _settings(stack: LocalStack, database: str) -> Settings:
    base, _, _ = stack.database_url.rpartition("/")
    return _settings_of(stack).model_copy(update={"database_url": SecretStr(f"{base}/{database}")})


@cache
def _settings_of(stack: LocalStack) -> Settings:
    return load_settings(
        kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
        database_url=stack.database_url,
        topic_partitions=4,
        session_seconds=10,
        transaction_seconds=5,
        tick_grace_seconds=0,  # one broker, one clock
        order_seconds=1.0,  # many tests run one worker alone, whose neighbours have records of others unread
    )
