"""How a process waits for a server that is away as it starts: its log and its probes say so."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from infra.retry import wait_for_server
from workers.telemetry.health import Health

__all__ = ["reach_server"]

_Client = TypeVar("_Client")


async def reach_server(
    server: str,
    reach: Callable[[], Awaitable[_Client]],
    health: Health,
    log: Any,  # noqa: ANN401 - structlog's
) -> _Client:
    """Connect to a server, once it is there.

    Args:
        server: its name, for people.
        reach: connects, and cleans up after itself where it fails.
        health: told of each failure, and that the server serves.
        log: a logger, told of a failure at most once in 10 s.

    Raises:
        KafkaError, OSError, PostgresError: what will not pass by itself.

    """
    client = await wait_for_server(
        reach,
        lambda words: log.warning("waiting_for_server", server=server, error=words),
        lambda words: health.serves(server, words),
    )
    health.serves(server, None)
    return client
