"""Runs tasks until the first of them ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["run_until_first", "wait_for_event"]


async def run_until_first(*parts: Coroutine[Any, Any, Any], cancel_seconds: float | None = None) -> None:
    """Run coroutines as tasks until the first of them ends; cancel the others, and raise the first task's error.

    Args:
        parts: the coroutines.
        cancel_seconds: how long to wait for cancelled tasks to end; None: without a limit.

    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=cancel_seconds)
    for task in tasks:
        if task in ended:
            task.result()


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set, at most so long."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting], timeout=max(0.0, seconds))
    finally:
        waiting.cancel()
