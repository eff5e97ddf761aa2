"""What tests of the audit share."""

from collections.abc import AsyncIterator

import pytest

from infra.postgres import Connection


@pytest.fixture
async def books(story: Connection) -> AsyncIterator[Connection]:
    """The story's books; what a test does to them is undone."""
    transaction = story.transaction()
    await transaction.start()
    yield story
    await transaction.rollback()


@pytest.fixture
async def unprotected(unprotected_story: Connection) -> AsyncIterator[Connection]:
    """The story's books without constraints and keys; what a test does to them is undone."""
    transaction = unprotected_story.transaction()
    await transaction.start()
    yield unprotected_story
    await transaction.rollback()
