"""How a process is told to stop."""

import asyncio
import os
import signal
import sys

__all__ = ["stop_requested", "stop_with_parent"]


def stop_requested() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def stop_with_parent(stop: asyncio.Event) -> None:
    """Also set the event when standard input ends: a parent that died, however it died, closes it."""

    def at_end() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            asyncio.get_running_loop().remove_reader(sys.stdin)
            stop.set()

    asyncio.get_running_loop().add_reader(sys.stdin, at_end)
