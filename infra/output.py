"""What a command writes: to a reader that may leave early, as `head -1` does, and whether its errors are JSON.

Where the reader of a pipe has left, Python raises `BrokenPipeError` at the write, which looks like a lost connection to
a server: it is an `OSError` like any other. Here the write ends the command instead, silently. A write that fails for
another reason, as on a full disk, raises `UnwritableOutputError`.
"""

import io
import logging
import os
import sys
from contextvars import ContextVar
from typing import Any

__all__ = [
    "ReaderLeft",
    "UnwritableOutputError",
    "continue_without_reader",
    "end_quietly_without_reader",
    "note_json",
    "writes_json",
]

_BUFFER_BYTES = 8192
_JSON: ContextVar[bool] = ContextVar("json", default=False)


def note_json(*, asked: bool) -> None:
    """Note whether the command was given --json: its errors are JSON then, too."""
    _JSON.set(asked)


def writes_json() -> bool:
    """Return whether the command was given --json."""
    return _JSON.get()


class ReaderLeft(SystemExit):
    """The reader of standard output has left; the process ends with code 0."""

    def __init__(self) -> None:
        super().__init__(0)


class UnwritableOutputError(OSError):
    """Standard output cannot be written, with the number and the words of the system's error."""


class _Output(io.FileIO):
    """Standard output's file."""

    continues = False

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer, as in io
        """Write bytes; the first write that fails is the last one: whatever comes after it is discarded.

        Raises:
            ReaderLeft: when nobody reads the bytes, unless the command is to continue.
            UnwritableOutputError: when they cannot be written for another reason.

        """
        try:
            return super().write(data)
        except BrokenPipeError:
            self._discard()
            if not self.continues:
                # asyncio would log that nobody retrieved this exception of a task.
                logging.getLogger("asyncio").disabled = True
                raise ReaderLeft from None
            return len(data)
        except OSError as error:
            self._discard()
            raise UnwritableOutputError(error.errno, error.strerror) from error

    def _discard(self) -> None:
        """Discard what is written from here on, at the latest when the process ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def end_quietly_without_reader() -> None:
    """Let the process end silently when the reader of standard output leaves, and know a write that fails."""
    if sys.stdout is None or sys.stdout.isatty():
        return
    try:
        sys.stdout.flush()
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream without a file, as in a notebook or a test
        return
    file = _Output(number, "wb", closefd=False)
    buffer = io.BufferedWriter(file, _BUFFER_BYTES)
    sys.stdout = io.TextIOWrapper(buffer, sys.stdout.encoding, sys.stdout.errors, line_buffering=True)


def continue_without_reader() -> None:
    """Let the command come to its end, and to its exit code, also when the reader of standard output leaves."""
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(file, _Output):
        file.continues = True
