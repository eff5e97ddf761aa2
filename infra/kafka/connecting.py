"""How a client of aiokafka connects: what refuses it is told, and a wait can be seen and given up."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache
from typing import Any, TypeVar

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from infra.waiting import waiting_for

__all__ = ["UntrustedBrokerError", "complete_request", "protect_bootstrap"]

_REFUSAL_SECONDS = 5.0
_LEAST_MILLISECONDS = 5_000  # for one of many addresses: a broker under load, or far away, may take as long to answer

_Response = TypeVar("_Response")


class UntrustedBrokerError(KafkaError):  # type: ignore[misc] # aiokafka is untyped
    """A broker's certificate is not trusted, or the broker speaks no TLS."""


def protect_bootstrap(client: AIOKafkaClient) -> None:
    """Let a client's bootstrap complete when its caller is cancelled, and close the client afterwards.

    aiokafka would leave a connection open for good when cancelled in the middle of the bootstrap. And of brokers that
    refuse a login, or whose certificate is not trusted, it would say only that none could be reached: the bootstrap
    raises what they said. For one silent broker it would wait as long as may be waited for all. The bootstrap and each
    request are also marked as waits for the brokers.
    """
    bootstrap, send = client.bootstrap, client.send
    server = f"Kafka at {client._bootstrap_servers}"  # noqa: SLF001 - `hosts` is in random order

    async def start() -> None:
        with waiting_for(server, "connecting"):
            await complete_request(client, _bootstrap(client, bootstrap))

    async def ask(node: int, request: Any, **options: Any) -> Any:  # noqa: ANN401 - aiokafka's
        with waiting_for(server, _spell(getattr(request, "name", type(request).__name__))):
            return await send(node, request, **options)

    client.bootstrap, client.send = start, ask


@cache
def _spell(name: str) -> str:
    """Return the name of a class of requests as Kafka's protocol has it, such as `Metadata request`."""
    return re.sub(r"Request\w*$", " request", name.lstrip("_"))


async def _bootstrap(client: AIOKafkaClient, bootstrap: Callable[[], Awaitable[None]]) -> None:
    patience = client._request_timeout_ms  # noqa: SLF001 - there is no other way
    client._request_timeout_ms = min(patience, max(patience // len(client.hosts), _LEAST_MILLISECONDS))  # noqa: SLF001
    try:
        await bootstrap()
    except KafkaConnectionError as error:
        if (refusal := await _find_refusal(client)) is None:
            raise
        raise refusal from error
    finally:
        client._request_timeout_ms = patience  # noqa: SLF001


async def _find_refusal(client: AIOKafkaClient) -> KafkaError | None:
    """Return by which error a broker refuses a client, or the client a broker; None where none answers."""
    if client._security_protocol == "PLAINTEXT":  # noqa: SLF001 - there is no other way
        return None
    names = ("client_id", "ssl_context", "security_protocol", "sasl_mechanism", "sasl_plain_username")
    options = {name: getattr(client, f"_{name}") for name in (*names, "sasl_plain_password")}
    for host, port, _ in client.hosts:
        try:
            async with asyncio.timeout(_REFUSAL_SECONDS):
                connection = await create_conn(host, port, **options)
        except (SaslAuthenticationFailed, AuthenticationFailedError, UnsupportedSaslMechanismError) as error:
            return error
        except ssl.SSLError as error:
            return UntrustedBrokerError(f"{host}:{port}: {error.reason or error}".replace("_", " ").lower())
        except (OSError, KafkaError):
            continue
        connection.close()
    return None


async def complete_request(client: AIOKafkaClient, request: Coroutine[Any, Any, _Response]) -> _Response:
    """Return the response to a request that may have to connect; let it complete when its caller is cancelled.

    The client is closed afterwards then: aiokafka would leave the connection open for good.
    """
    asking = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        closing = asyncio.ensure_future(_close_after(asking, client))
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)
        raise


_closing: set["asyncio.Task[None]"] = set()  # keeps the tasks from being collected: nothing awaits them


async def _close_after(asking: "asyncio.Future[Any]", client: AIOKafkaClient) -> None:
    await asyncio.wait([asking])
    if not asking.cancelled():
        asking.exception()  # retrieved, so that asyncio does not log the error
    await client.close()
