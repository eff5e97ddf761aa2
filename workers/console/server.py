"""The console's server: its page, what the page reads and asks to be done, and the one look that all pages share."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from aiohttp import web

from infra.settings import Settings, SettingsError
from workers.console.access import Access, access_of
from workers.console.actions import Actions
from workers.console.api import Api
from workers.console.guard import guards, harden
from workers.console.health import probe_addresses
from workers.console.jobs import Jobs
from workers.console.live import Live
from workers.console.problems import error_middleware
from workers.console.reading import QueryLimiter
from workers.console.watch import SystemMonitor

__all__ = ["STATIC", "serve_console"]

STATIC: Final = Path(__file__).parent / "static"
_SHUTDOWN_SECONDS: Final = 2.0


@asynccontextmanager
async def serve_console(settings: Settings, listener: socket.socket | None = None) -> AsyncIterator[str]:
    """Serve the console until left; yield its address. What it runs is stopped then, and put on record.

    Args:
        settings: where Kafka and Postgres are, who may come, and where to listen.
        listener: a bound socket to listen on instead of the settings' address and port.

    Raises:
        SettingsError: when a token is missing or the port cannot be had.

    """
    access = access_of(settings)
    reading, jobs = QueryLimiter(settings), Jobs(settings)
    watch = SystemMonitor(reading, probe_addresses(settings))
    live = Live(watch)
    application = _application(settings, access, Api(reading, watch, jobs), Actions(access, reading, jobs), live)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    watching = asyncio.create_task(watch.run())
    try:
        yield await _listen(runner, settings, listener)
    finally:
        watching.cancel()
        await asyncio.wait([watching], timeout=_SHUTDOWN_SECONDS)  # a client whose broker is gone may not close
        if watching.done() and not watching.cancelled():
            watching.result()  # it never ends by itself: this raises
        await jobs.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                await watch.lag.close()
        await runner.cleanup()


def _application(settings: Settings, access: Access, api: Api, actions: Actions, live: Live) -> web.Application:
    names = (name.strip().lower() for name in settings.console_hosts.split(","))
    application = web.Application(
        middlewares=[error_middleware(settings), *guards(access, frozenset(filter(None, names)))]
    )
    application.on_response_prepare.append(harden)
    application.on_shutdown.append(live.close)
    application.add_routes([web.get(path, handler) for path, handler in api.routes().items()])
    application.add_routes([web.post(path, handler) for path, handler in actions.routes().items()])
    application.add_routes(
        [
            web.get("/api/session", actions.session),
            web.delete("/api/session", actions.sign_out),
            web.get("/api/live", live.stream),
            web.get("/", _page),
            web.static("/static", STATIC),
        ]
    )
    return application


async def _page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "index.html")


async def _listen(runner: web.AppRunner, settings: Settings, listener: socket.socket | None) -> str:
    place = f"{settings.console_address}:{settings.console_port}"
    try:
        if listener is not None:
            await web.SockSite(runner, listener).start()
            host, port = listener.getsockname()[:2]
            return f"http://{host}:{port}"
        await web.TCPSite(runner, settings.console_address, settings.console_port).start()
    except OSError as error:
        raise SettingsError(
            f"INMAIL_CONSOLE_PORT, INMAIL_CONSOLE_ADDRESS: cannot listen on {place}: {error.strerror or error}"
        ) from error
    return f"http://{place}"
