"""Errors of the local stack. Every message says what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "ArtifactError",
    "DataDirectoryError",
    "DiskFullError",
    "LocalStackError",
    "PortTakenError",
    "ServerEndedError",
    "ServerError",
    "StartInterruptedError",
    "as_local_stack_error",
]


class LocalStackError(Exception):
    """The local stack cannot start or has stopped. The message says why and what to do."""


class ArtifactError(LocalStackError):
    """A file of Kafka cannot be downloaded, or differs from the file that the lock names."""


class DataDirectoryError(LocalStackError):
    """The data directory is in use, from another version, or unreachable for the server's user."""


class DiskFullError(LocalStackError):
    """The disk with the stack's files is full."""


class PortTakenError(LocalStackError):
    """Another process uses the requested port."""


class ServerError(LocalStackError):
    """A server did not start, or ended unexpectedly. The message has the path and the last lines of its log."""


class ServerEndedError(ServerError):
    """A server ended by itself instead of starting. The message has the end of its log."""


class StartInterruptedError(LocalStackError):
    """The start was cancelled before the servers were ready."""


@contextmanager
def as_local_stack_error(task: str, path: Path) -> Iterator[None]:
    """Convert an `OSError` of the block into a `LocalStackError` that names the task and the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"No room left at {path} while {task}. Free some space and start again.") from error
        raise LocalStackError(f"{task[0].upper()}{task[1:]} failed at {path}: {error.strerror or error}.") from error
