"""What a process ended of, in one sentence, read from the end of its log: the rest stays there."""

import re
import signal
from pathlib import Path
from typing import Final

from workers.commands.running import DEFECT

__all__ = ["first_sentence", "last_words", "last_words_of_server", "log_has"]

_TAIL_BYTES: Final = 256 * 1024
_SAID: Final = "inmail: "  # what `workers.commands.running.fail` begins with
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")


def last_words(log: Path, begun_at: int, code: int) -> str:
    """Return what a process ended of.

    Args:
        log: the file that it wrote to.
        begun_at: where in the file its own lines begin, in bytes.
        code: its exit code, negative where a signal ended it.

    """
    if code < 0:
        try:
            return f"it was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"it was ended by signal {-code}"
    lines = _lines(log, begun_at)
    said = [number for number, line in enumerate(lines) if line.startswith(_SAID)]
    if not said:
        return f"it ended with exit code {code} and did not say why"
    text = lines[said[-1]].removeprefix(_SAID)
    if text == DEFECT and said[-1] > 0:  # the last line of a traceback: the error itself
        return f"it ended of a mistake in this program: {first_sentence(lines[said[-1] - 1])}"
    return first_sentence(text)


def last_words_of_server(log: Path, begun_at: int, code: int, error: re.Pattern[str]) -> str:
    """Return what a server ended of: the signal, or the last error in its log, which a pattern's first group has."""
    if code < 0:
        return last_words(log, begun_at, code)
    errors = error.findall(_log_tail(log, begun_at))
    return f"it ended with exit code {code}" + (f": {errors[-1]}" if errors else " and did not say why")


def log_has(log: Path, begun_at: int, text: str) -> bool:
    """Tell whether a process has written a text by now; `last_words` describes the arguments."""
    return any(text in line for line in _lines(log, begun_at))


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, without its full stop."""
    return _SENTENCE_END.split(text.strip(), 1)[0].rstrip(".")


def _log_tail(log: Path, begun_at: int) -> str:
    """Return the end of a log, at most a quarter of a MiB of what came after a place in it.

    Raises:
        OSError: when it cannot be read.

    """
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(begun_at, size - _TAIL_BYTES))
        return file.read().decode(errors="replace")


def _lines(log: Path, begun_at: int) -> list[str]:
    try:
        return _log_tail(log, begun_at).splitlines()
    except OSError:
        return []
