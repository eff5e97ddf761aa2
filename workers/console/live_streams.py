"""The live stream: sends each sample to every open page (Server-Sent Events)."""

import asyncio
from typing import Final

from aiohttp import web
from pydantic_core import to_json

from infra.first_of import run_until_first
from workers.console.system_monitor import SystemMonitor

__all__ = ["LiveStreams"]

_MAX_STREAMS: Final = 100  # one for each open page
_RETRY_MS: Final = 2000


class LiveStreams:
    """The live streams of open pages."""

    def __init__(self, monitor: SystemMonitor) -> None:
        self._monitor = monitor
        self._closing = asyncio.Event()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send the last sample and then each new sample, until the page closes or the console ends.

        Raises:
            HTTPServiceUnavailable: when 100 streams are open.

        """
        if self._monitor.viewers >= _MAX_STREAMS:
            raise web.HTTPServiceUnavailable(reason=f"{_MAX_STREAMS} live pages are open, which is the limit")
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
            pass  # the page was closed
        finally:
            self._monitor.viewers -= 1
        return response

    async def close(self, _: web.Application) -> None:
        """End all streams; otherwise the server would wait for them at shutdown."""
        self._closing.set()
