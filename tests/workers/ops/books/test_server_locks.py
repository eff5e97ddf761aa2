"""An error of a lock is explained once, wherever it is raised."""

import asyncpg
import pytest

from infra.postgres_locks import LockedError
from infra.settings import load_settings
from workers.console.query_limiter import QueryLimiter
from workers.ops.books.server_locks import explaining_locks
from workers.ops.books.shards import ServerError

# Nobody answers there: whoever asked again would say that the holder is gone.
NOWHERE = load_settings(database_url="postgresql://localhost:1/inmail")
TOLD = LockedError("pid 7 holds it")
GAVE_UP = asyncpg.LockNotAvailableError("canceling statement due to lock timeout")


@pytest.mark.parametrize("error", [TOLD, ServerError(NOWHERE, TOLD)], ids=["the only server", "one of several"])
async def test_an_error_that_names_the_holder_passes_as_it_is(error: Exception) -> None:
    """Its holder may be gone by now, and would be asked for in vain: by a command as by the console."""
    with pytest.raises(type(error)) as by_command:
        async with explaining_locks(NOWHERE):
            raise error
    with pytest.raises(type(error)) as by_console:
        async with QueryLimiter(NOWHERE).slot():
            raise error

    assert by_command.value is error
    assert by_console.value is error


async def test_an_error_of_a_lock_is_explained() -> None:
    """Of one of several servers, it stays that server's."""
    with pytest.raises(LockedError, match=f"^{GAVE_UP}: whoever held it is gone by now"):
        async with explaining_locks(NOWHERE):
            raise GAVE_UP
    with pytest.raises(ServerError) as raised:
        async with explaining_locks(NOWHERE):
            raise ServerError(NOWHERE, GAVE_UP)

    assert isinstance(raised.value.error, LockedError)
