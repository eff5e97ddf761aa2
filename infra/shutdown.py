"""Events that request the stop of a process: signals, and the end of its parent."""

import asyncio
import os
import signal
import sys

__all__ = ["create_stop_event", "stop_with_parent"]


def create_stop_event() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def stop_with_parent(stop: asyncio.Event) -> None:
    """Set the event also when standard input closes, which happens when the parent ends, also by a kill."""

    def at_end() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            asyncio.get_running_loop().remove_reader(sys.stdin)
            stop.set()

    asyncio.get_running_loop().add_reader(sys.stdin, at_end)
