"""Health probes over HTTP: 200 or 503 and a JSON body, served by the event loop of the process itself.

A blocked event loop gives no answer, so the probe fails then.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from infra.settings import Settings

__all__ = ["Answer", "Page", "serve_probes"]

Answer = Callable[[], tuple[bool, Mapping[str, Any]]]
Page = Callable[[], tuple[bytes, str]]  # a body and its content type


@asynccontextmanager
async def serve_probes(
    settings: Settings, answers: Mapping[str, Answer], pages: Mapping[str, Page]
) -> AsyncIterator[None]:
    """Serve answers and pages by path while the block runs; serve nothing if no port is set.

    Raises:
        SettingsError: when the port cannot be opened.

    """
    if not settings.health_port:
        yield
        return
    from infra.probes_site import serve  # noqa: PLC0415 - most commands need no web server

    async with serve(settings, answers, pages):
        yield
