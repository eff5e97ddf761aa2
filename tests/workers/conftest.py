"""What the tests on a cluster share: the running stack, as if others had worked its topics before."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.workers.wire import pass_over, prepare


@pytest.fixture
async def cluster(settings: Settings) -> AsyncIterator[Settings]:
    """The running stack with its groups at the ends of their topics, and there again afterwards, whatever was left."""
    await prepare(settings)
    yield settings
    await pass_over(settings)


@pytest.fixture
def account() -> str:
    """An account of the test's own: topics outlive tests."""
    return f"a-{uuid4().hex[:12]}"
