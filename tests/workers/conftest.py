"""What the tests on a cluster share: the running stack, as if others had worked its topics before."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from infra.postgres import Connection
from infra.settings import Settings, load_settings
from schemas.catalogue import DEAD_LETTERS, SEND_REQUESTS
from tests.conftest import Connect
from tests.workers.two_servers import TwoServers, prepare_servers
from tests.workers.wire import prepare, remove_records
from workers.ledger.plans import SHIPPED
from workers.telemetry import lane_health


@pytest.fixture
async def cluster(settings: Settings) -> Settings:
    """The running stack with its groups at the ends of their topics, whatever other tests left."""
    await prepare(settings)
    return settings


@pytest.fixture(scope="session")
def unasked() -> Settings:
    """Settings of servers that are not asked for anything."""
    return load_settings()


@pytest.fixture
async def balances(settings: Settings) -> Settings:
    """The running stack as `cluster` has it, with the topic of balances switched on."""
    own = settings.model_copy(update={"balances_topic": True})
    await prepare(own)
    return own


@pytest.fixture
def account() -> str:
    """An account of the test's own: topics outlive tests."""
    return f"a-{uuid4().hex[:12]}"


@pytest.fixture
def mended(cluster: Settings, tmp_path: Path) -> Settings:
    """The same cluster, with a plan catalogue that has the plan `platinum`."""
    file = tmp_path / "plans.toml"
    file.write_text(SHIPPED.read_text() + "\n[plans.platinum]\ncredits = 7\nrollover = true\n")
    return cluster.model_copy(update={"plans_file": str(file)})


@pytest.fixture
async def servers(
    settings: Settings, database: Connection, other_books: Callable[[], Awaitable[Settings]], connect: Connect
) -> TwoServers:
    """Two servers that hold the books together, both empty."""
    second = await other_books()
    return await prepare_servers(settings, second, database, await connect(second))


@pytest.fixture
def soon_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a lane that finds nothing to do be over its last error after half a second, and not after five."""
    monkeypatch.setattr(lane_health, "_SETTLED_SECONDS", 0.5)


@pytest.fixture
async def no_far_times_left(cluster: Settings) -> AsyncIterator[None]:
    """Remove the sends' records after a test that gives them times of its own: other tests look for records by time."""
    yield
    await remove_records(cluster, SEND_REQUESTS)


@pytest.fixture
async def no_letters_left(cluster: Settings) -> AsyncIterator[None]:
    """Remove all dead letters after a test that makes thousands: other tests read them all, most of a second each."""
    yield
    await remove_records(cluster, DEAD_LETTERS)
