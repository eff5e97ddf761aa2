"""The live stream: each look at the system, sent to every open page as it is taken (Server-Sent Events)."""

import asyncio
from typing import Final

from aiohttp import web
from pydantic_core import to_json

from infra.first_of import run_until_first
from workers.console.system_monitor import SystemMonitor

__all__ = ["LiveStreams"]

_MAX_STREAMS: Final = 100  # at most; each is a page that somebody left open
_RETRY_MS: Final = 2000


class LiveStreams:
    """The open streams."""

    def __init__(self, monitor: SystemMonitor) -> None:
        self._monitor = monitor
        self._closing = asyncio.Event()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send what was seen last, and then each look, until the page goes or the console ends."""
        if self._monitor.viewers >= _MAX_STREAMS:
            raise web.HTTPServiceUnavailable(reason=f"{_MAX_STREAMS} pages are open, and no more can be live")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        self._monitor.viewers += 1
        self._monitor.request_sample()
        try:
            await response.write(b"retry: %d\n\n" % _RETRY_MS)
            while not self._closing.is_set():
                await response.write(b"event: overview\ndata: %b\n\n" % to_json(self._monitor.overview_json()))
                await run_until_first(self._monitor.wait_for_sample(), self._closing.wait())
        except ConnectionError:
            pass  # the page went
        finally:
            self._monitor.viewers -= 1
        return response

    async def close(self, _: web.Application) -> None:
        """End all streams: the server would wait for them otherwise."""
        self._closing.set()
