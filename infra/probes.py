"""Answers over HTTP for who watches a process: 200 or 503 and a JSON body, from the process's own event loop.

A loop that is blocked answers nobody, which is an answer too.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from infra.settings import Settings

__all__ = ["Answer", "Page", "probes"]

Answer = Callable[[], tuple[bool, Mapping[str, Any]]]
Page = Callable[[], tuple[bytes, str]]  # a body, and its content type


@asynccontextmanager
async def probes(
    settings: Settings, answers: Mapping[str, Answer], pages: Mapping[str, Page] | None = None
) -> AsyncIterator[None]:
    """Serve answers and pages by path, until left; nothing where no port is set.

    Raises:
        SettingsError: when the port cannot be had.

    """
    if not settings.health_port:
        yield
        return
    from infra.probes_site import serve  # noqa: PLC0415 - most commands serve nothing, and need no web server

    async with serve(settings, answers, pages or {}):
        yield
