"""What can go wrong with the local stack. Every message says what to do about it."""

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
    "ServerError",
    "StartInterruptedError",
    "explained",
]


class LocalStackError(Exception):
    """The local stack cannot be started or has stopped; the message says why and what to do."""


class ArtifactError(LocalStackError):
    """A file of Kafka could not be fetched, or is not the file that the lock names."""


class DataDirectoryError(LocalStackError):
    """The data directory is in use, of another version, or out of reach."""


class DiskFullError(LocalStackError):
    """There is no room left where the stack keeps its files."""


class PortTakenError(LocalStackError):
    """The port asked for belongs to another process."""


class ServerError(LocalStackError):
    """A server did not come up, or ended by itself. The message holds its log's path and last lines."""


class StartInterruptedError(LocalStackError):
    """The start was called off before the servers were up."""


@contextmanager
def explained(task: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` raised while doing `task` below `path` into a `LocalStackError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"No room left at {path} while {task}. Free some space and start again.") from error
        raise LocalStackError(f"{task[0].upper()}{task[1:]} failed at {path}: {error.strerror or error}.") from error
