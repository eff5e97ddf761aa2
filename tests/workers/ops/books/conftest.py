"""What tests of the audit share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from infra.postgres import Connection


@pytest.fixture
async def books(story: Connection) -> AsyncIterator[Connection]:
    """The story's books; what a test does to them is undone."""
    async with _undone(story) as connection:
        yield connection


@pytest.fixture
async def unprotected(unprotected_story: Connection) -> AsyncIterator[Connection]:
    """The story's books without constraints and keys; what a test does to them is undone."""
    async with _undone(unprotected_story) as connection:
        yield connection


@asynccontextmanager
async def _undone(connection: Connection) -> AsyncIterator[Connection]:
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
