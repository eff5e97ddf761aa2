"""Lag over HTTP: `/lag` as JSON for programs, `/metrics` for Prometheus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from pydantic_core import to_json

from infra.addresses import join_address
from infra.clock import utc_now
from infra.settings import SettingsError
from workers.ops.lag.exposition import LagCollector
from workers.ops.lag.observer import LagObserver

__all__ = ["ServedLag", "serve_lag", "split_address"]

_LEAST_SECONDS = 15.0


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, `[v6]:PORT` or `PORT`, which is on the loopback.

    Raises:
        SettingsError: when it is none of these.

    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not int(port) < 65_536:
        raise SettingsError(f"expected HOST:PORT to serve on, and not {address!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


class ServedLag:
    """What is served: the samples of an observer and, before Kafka was reached and there is one, why there is none."""

    def __init__(self, observer: LagObserver | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self.observer: LagObserver | None = None
        self._reason = "Kafka was not reached yet"
        if observer is not None:
            self.show(observer)

    def show(self, observer: LagObserver) -> None:
        """Serve the samples of an observer from now on."""
        self.observer = observer
        self.registry.register(LagCollector(observer))

    def wait(self, reason: str) -> None:
        """Note why Kafka is not reached, as `wait_for_server` calls it."""
        self._reason = f"waiting for Kafka: {reason}"

    def stale(self, oldest: timedelta) -> str | None:
        """Return why the last sample is not to be served, where it is older than `oldest` or there is none."""
        if self.observer is None:
            return self._reason
        if self.observer.refreshed_at is not None and utc_now() - self.observer.refreshed_at <= oldest:
            return None
        return self.observer.trouble or "the first look is not over yet"


async def _livez(_: web.Request) -> web.Response:
    """Answer, which is all that it takes: where a look fails it is Kafka, and a new process would see no more."""
    return web.json_response({"alive": True})


async def _readyz(served: ServedLag, oldest: timedelta, _: web.Request) -> web.Response:
    """Answer whether the last sample is not older than `oldest`, and the reason if it is."""
    reason = served.stale(oldest)
    body = {"ready": reason is None, "reasons": [] if reason is None else [reason]}
    return web.json_response(body, status=200 if reason is None else 503)


@asynccontextmanager
async def serve_lag(served: ServedLag, address: str, period: float) -> AsyncIterator[str]:
    """Serve what an observer saw last, until left; yields where, for port 0 with the one that was free.

    `/lag`, `/metrics` and `/readyz` answer 503 and the reason before the first look, and once the last one is older
    than three periods: old numbers would look like good ones. `/readyz` makes no text of them: a probe costs nothing.

    Raises:
        SettingsError: when the address cannot be had.

    """
    host, port = split_address(address)
    oldest = timedelta(seconds=max(_LEAST_SECONDS, 3 * period))

    def stale() -> web.Response | None:
        reason = served.stale(oldest)
        return None if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def lag(_: web.Request) -> web.Response:
        if (answer := stale()) is not None:
            return answer
        observer = served.observer
        assert observer is not None  # noqa: S101 - without it there is a reason
        body = {
            "looked_at": observer.refreshed_at,
            "trouble": observer.trouble,
            "groups": [group.summary() for group in observer.groups],
        }
        return web.Response(body=to_json(body), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        if (answer := stale()) is not None:
            return answer
        # In a thread: of thousands of partitions it takes most of a second, in which the loop has to look.
        body = await asyncio.to_thread(generate_latest, served.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    application = web.Application()
    application.add_routes([web.get("/lag", lag), web.get("/metrics", metrics)])
    application.add_routes([web.get("/livez", _livez), web.get("/readyz", partial(_readyz, served, oldest))])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise SettingsError(f"cannot listen on {address}: {error.strerror or error}") from error
        yield f"http://{join_address(*runner.addresses[0][:2])}"
    finally:
        await runner.cleanup()
