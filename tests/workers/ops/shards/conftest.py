"""What the tests of several servers share: books with a history, copied for each test."""

from collections.abc import AsyncIterator

import pytest

from infra.local.stack import LocalStack
from infra.settings import Settings, load_settings
from tests.conftest import _copy, database_name, finish
from tests.workers.ops.shards.servers import Servers, both_servers, copy_database, decide_history, open_servers


@pytest.fixture(scope="session")
async def settings_of_history(stack: LocalStack, template: str) -> Settings:
    """Settings for a database of the run's own, migrated and empty."""
    settings = load_settings(
        kafka_bootstrap_servers=stack.kafka_bootstrap_servers, database_url=stack.database_url, topic_partitions=4
    )
    return await copy_database(settings, template)


@pytest.fixture(scope="session")
async def decided(settings_of_history: Settings) -> str:
    """Name a database with a simulated history that was decided into it."""
    await decide_history(settings_of_history)
    return database_name(settings_of_history)


@pytest.fixture(scope="session")
async def prepared(settings_of_history: Settings, decided: str, template: str) -> tuple[str, str]:
    """Name the databases of two servers: the first has that history, the second is prepared and empty."""
    first, second = [await copy_database(settings_of_history, each) for each in (decided, template)]
    await open_servers(first, second)
    return database_name(first), database_name(second)


@pytest.fixture
async def servers(
    stack: LocalStack,
    prepared: tuple[str, str],
    kept_readers: None,  # noqa: ARG001 - what `tests.workers.wire` asks
) -> AsyncIterator[Servers]:
    """Two servers of the test's own: the first has a history, the second is prepared and empty."""
    first, second = [await _copy(stack, each) for each in prepared]
    yield both_servers(first, second)
    finish(first)
    finish(second)
