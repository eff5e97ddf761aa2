"""Errors of locks that say who holds them, on the only server of the books or on one of several."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from infra.postgres_locks import LockedError, explain_lock
from infra.settings import Settings
from workers.ops.books.shards import ServerError

__all__ = ["explaining_locks"]


@asynccontextmanager
async def explaining_locks(settings: Settings) -> AsyncIterator[None]:
    """Let an error of a statement that gave up waiting for a lock say who holds it. One that says it passes as it is.

    Raises:
        LockedError: in place of the error of a lock; within a `ServerError` where that has it.

    """
    try:
        yield
    except LockedError:
        raise
    except asyncpg.LockNotAvailableError as error:
        raise await explain_lock(settings, error) from error
    except ServerError as error:
        if not isinstance(error.error, asyncpg.LockNotAvailableError) or isinstance(error.error, LockedError):
            raise
        raise ServerError(error.settings, await explain_lock(error.settings, error.error)) from error
