"""What ends a lane, a worker or a process.

Four kinds of failure, never mixed. An outcome is a row and no error at all; a dead letter is made where a record is
refused; a retriable error of a server (`infra/retry.py`) is retried, jittered and bounded, while its batch is held.
Everything else is an error of this file, or a broken invariant: it ends the process, which says what to do.
"""

import asyncio
from typing import Any

__all__ = ["BreakerError", "ChildError", "FencedError", "LaneError", "StuckError", "WorkerError", "task_error"]


class FencedError(Exception):
    """A newer owner has raised the lane's epoch, or the books have lost what this one stored."""


class LaneError(Exception):
    """The lane cannot go on and a retry would not help. The message says what an operator can do."""


class BreakerError(LaneError):
    """Too large a share of what a worker read cannot be decided."""


class WorkerError(Exception):
    """The worker could not end in order. The message says why and what it left."""


class StuckError(WorkerError):
    """The worker made no progress for longer than it may. The message says at what, and the last error."""


class ChildError(Exception):
    """A worker process ended by itself, or not as it should. The message says where its log is."""


def task_error(task: "asyncio.Future[Any]", *, stopped: bool) -> BaseException | None:
    """Return the error that ended a task; None if it ended well, or was cancelled after a stop.

    A task that a library cancelled while nobody had stopped it would leave no trace: for it, a WorkerError.
    """
    try:
        return task.exception()
    except asyncio.CancelledError as cause:
        error = WorkerError(f"{task!r} was cancelled, and nobody had stopped it")
        error.__cause__ = cause
        return None if stopped else error
