"""Runs tasks until the first of them ends, or for a time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["end_in_time", "run_until_first", "wait_for_event"]

_left: set["asyncio.Task[Any]"] = set()  # keeps the tasks from being collected: nothing awaits them


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


async def end_in_time(part: Coroutine[Any, Any, Any], seconds: float) -> bool:
    """Run a coroutine as a task for so long; return whether it ended, and raise its error.

    One that did not end is cancelled, and not waited for: it may clean up for longer than there is time for, as asyncpg
    does, which asks the server to cancel the statement.
    """
    task = asyncio.ensure_future(part)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            _left.add(task)
            task.add_done_callback(_see_end)
            task.cancel()
    if done:
        task.result()
    return bool(done)


def _see_end(task: "asyncio.Task[Any]") -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not log the error
