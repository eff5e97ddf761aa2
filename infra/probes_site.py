"""The web server of `infra.probes`, in its own module because its import takes a fifth of a second."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from infra.addresses import join_address
from infra.probes import Answer, Page
from infra.settings import Settings, SettingsError

__all__ = ["serve"]


@asynccontextmanager
async def serve(settings: Settings, answers: Mapping[str, Answer], pages: Mapping[str, Page]) -> AsyncIterator[None]:
    """Serve answers and pages by path at the settings' port while the block runs.

    Raises:
        SettingsError: when the port cannot be opened.

    """
    application = web.Application()
    application.add_routes([web.get(path, _answer_handler(answer)) for path, answer in answers.items()])
    application.add_routes([web.get(path, _page_handler(page)) for path, page in pages.items()])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await _listen(runner, settings)
        yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: Settings) -> None:
    place = join_address(settings.health_address, settings.health_port)
    try:
        await web.TCPSite(runner, settings.health_address, settings.health_port).start()
    except OSError as error:
        raise SettingsError(
            f"INMAIL_HEALTH_PORT, INMAIL_HEALTH_ADDRESS: cannot listen on {place}: {error.strerror or error}"
        ) from error
    structlog.get_logger("inmail.health").info("health_served", place=place)


def _answer_handler(answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        healthy, body = answer()
        return web.json_response(body, status=200 if healthy else 503)

    return handle


def _page_handler(page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        body, content_type = page()
        return web.Response(body=body, headers={"Content-Type": content_type})

    return handle
