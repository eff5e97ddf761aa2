"""The console's web server: the page, its API, and the sampling that all pages share."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from infra.addresses import join_address
from infra.settings import Settings, SettingsError
from workers.console.access import Access, load_access
from workers.console.actions import Actions
from workers.console.api import Api
from workers.console.guard import add_security_headers, build_guards
from workers.console.health import probe_addresses
from workers.console.local_workers import WorkerControl
from workers.console.operation_runner import OperationRunner
from workers.console.problems import error_middleware
from workers.console.query_limiter import QueryLimiter
from workers.console.system_monitor import SystemMonitor

__all__ = ["STATIC", "serve_console"]

STATIC: Final = Path(__file__).parent / "static"
_SHUTDOWN_SECONDS: Final = 2.0


@asynccontextmanager
async def serve_console(
    settings: Settings, listener: socket.socket | None = None, control: WorkerControl | None = None
) -> AsyncIterator[str]:
    """Serve the console until the context ends, and yield its address. Running operations are stopped and recorded.

    Where sampling ends by an error, the context is cancelled and raises that error: a page that never changes again
    looks like a system in which nothing happens.

    Args:
        settings: the servers' addresses, the tokens, and the address to listen on.
        listener: a bound socket to listen on instead of the settings' address and port.
        control: controls the workers, if this program runs them.

    Raises:
        SettingsError: when a token is missing or the port is not available.

    """
    access = load_access(settings)
    limiter, runner = QueryLimiter(settings), OperationRunner(settings)
    monitor = SystemMonitor(limiter, probe_addresses(settings), control)
    actions = Actions(access, limiter, runner, control)
    application = _build_application(limiter, access, Api(limiter, monitor, runner), actions)
    web_runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await web_runner.setup()
    owner = asyncio.current_task()
    assert owner is not None  # noqa: S101 - a coroutine runs in a task
    sampling = asyncio.create_task(monitor.run())
    sampling.add_done_callback(end_context := partial(_end_context, owner))
    try:
        yield await _listen(web_runner, settings, listener)
    finally:
        sampling.remove_done_callback(end_context)
        if sampling.done():
            owner.uncancel()  # of the callback; the error is raised instead
        sampling.cancel()
        await asyncio.wait(
            [sampling], timeout=_SHUTDOWN_SECONDS
        )  # a client may hang on closing when its broker is gone
        await runner.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                await monitor.close()
        await web_runner.cleanup()
        if sampling.done() and not sampling.cancelled():
            sampling.result()  # sampling ends only by an error: raise it, once nothing is served any more


def _end_context(owner: asyncio.Task[Any], _: asyncio.Task[None]) -> None:
    owner.cancel()


def _build_application(limiter: QueryLimiter, access: Access, api: Api, actions: Actions) -> web.Application:
    names = (name.strip().lower() for name in limiter.settings.console_hosts.split(","))
    application = web.Application(
        middlewares=[error_middleware(limiter), *build_guards(access, frozenset(filter(None, names)))]
    )
    application.on_response_prepare.append(add_security_headers)
    application.add_routes([web.get(path, handler) for path, handler in api.routes().items()])
    application.add_routes([web.post(path, handler) for path, handler in actions.routes().items()])
    application.add_routes(
        [
            web.get("/api/session", actions.session),
            web.delete("/api/session", actions.sign_out),
            web.get("/", _serve_page),
            web.static("/static", STATIC),
        ]
    )
    return application


async def _serve_page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "index.html")


async def _listen(web_runner: web.AppRunner, settings: Settings, listener: socket.socket | None) -> str:
    place = join_address(settings.console_address, settings.console_port)
    try:
        if listener is not None:
            await web.SockSite(web_runner, listener).start()
            return f"http://{join_address(*listener.getsockname()[:2])}"
        await web.TCPSite(web_runner, settings.console_address, settings.console_port).start()
    except OSError as error:
        raise SettingsError(
            f"INMAIL_CONSOLE_PORT, INMAIL_CONSOLE_ADDRESS: cannot listen on {place}: {error.strerror or error}"
        ) from error
    return f"http://{place}"
