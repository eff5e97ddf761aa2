"""What tests of the workers' tools share."""

from collections.abc import Awaitable, Callable

import pytest

from infra.postgres import Connection
from infra.settings import Settings
from tests.conftest import Connect
from tests.workers.two_servers import TwoServers, prepare_servers


@pytest.fixture
async def servers(
    settings: Settings, database: Connection, other_books: Callable[[], Awaitable[Settings]], connect: Connect
) -> TwoServers:
    """Two servers that hold the books together, both empty."""
    second = await other_books()
    return await prepare_servers(settings, second, database, await connect(second))
