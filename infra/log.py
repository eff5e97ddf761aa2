"""Structured logs on standard error or in a file: JSON lines in production, readable lines on a terminal."""

import asyncio
import logging
import math
import re
import sys
import time
from traceback import walk_tb
from typing import Any, TextIO

import structlog
from aiokafka.errors import KafkaError

from infra.settings import LogFormat, Settings

__all__ = ["configure_logging", "quiet_late_errors"]

_SECONDS = 10.0  # in which each cause is logged once
_MOST_CAUSES = 1_000  # that are remembered at once
# Clients of servers, and how errors begin by which our own lines tell of the same server (`retry.describe_error`).
_CLIENTS = {"aiokafka": ("Kafka: ",), "asyncpg": ("Postgres: ", "a connection to a server was lost")}
_NUMBERS = re.compile(r"(?:\S*\d\S*\s*)+")  # words that have a digit: offsets, addresses, ids, partitions


def configure_logging(settings: Settings, file: TextIO | None = None) -> None:
    """Configure structlog and the standard library's loggers to use one formatter, on standard error or in a file."""
    stream = file or sys.stderr
    as_json = settings.log_format is LogFormat.JSON or (settings.log_format is LogFormat.AUTO and not stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor
    if as_json:
        # Without the frames' variables, which may contain passwords.
        plain = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        shared.append(structlog.processors.ExceptionRenderer(plain))
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    # aiokafka logs every rebalance step, and as a warning each retriable answer during a transaction.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    handler.addFilter(_OncePerInterval(_SECONDS))


class _HeldBack:
    """Lines of one cause since the last one that was written: how many, of which partitions, and until when."""

    def __init__(self, until: float) -> None:
        self.until, self.lines = until, 0
        self.partitions: set[int] = set()


class _OncePerInterval(logging.Filter):
    """Lets through one line of a cause in so many seconds; the next one tells how many were held back.

    Held back are warnings that have an `error`, and all that the servers' clients log, of which nothing is a cause of
    its own: while our lines tell of a server, its client adds nothing. What is logged once, such as a lane that halts,
    is no warning, or has no `error`.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._held: dict[tuple[str, ...], _HeldBack] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged; write into it what was held back before it."""
        if (cause := _cause(record)) is None:
            return True
        now = time.monotonic()
        held = self._held.get(cause, _NOTHING)
        if now < held.until:
            held.lines += 1
            held.partitions |= _partitions(record)
            return False
        _tell(record, held)
        if len(self._held) >= _MOST_CAUSES:
            self._held = {each: kept for each, kept in self._held.items() if now < kept.until}
        self._held[cause] = _HeldBack(now + self._seconds)
        for client, words in _CLIENTS.items():
            if isinstance(record.msg, dict) and str(record.msg["error"]).startswith(words):
                # Longer than a cause of ours is quiet, or the client's line would come before each next one of ours.
                self._held.setdefault((client,), _HeldBack(now)).until = now + 2 * self._seconds
        return True


_NOTHING = _HeldBack(-math.inf)


def _cause(record: logging.LogRecord) -> tuple[str, ...] | None:
    """Return what lines of the same cause have in common: their texts without numbers; None where each line counts.

    A dead letter has a reason: its error tells of the record.
    """
    client = record.name.partition(".")[0]
    if client in _CLIENTS and record.levelno < logging.CRITICAL:
        return (client,)
    line = record.msg
    if not isinstance(line, dict) or "error" not in line or record.levelno != logging.WARNING:
        return None
    texts = {name: text for name, text in line.items() if isinstance(text, str)}
    if "reason" in texts:
        del texts["error"]
    return tuple(_NUMBERS.sub("", texts[name]) for name in sorted(texts))


def _partitions(record: logging.LogRecord) -> set[int]:
    line = record.msg if isinstance(record.msg, dict) else {}
    return {*line.get("partitions", ()), *([line["partition"]] if "partition" in line else [])}


def _tell(record: logging.LogRecord, held: _HeldBack) -> None:
    """Write into a record what was held back before it, and, of a client's, its error in place of a traceback."""
    if isinstance(record.msg, dict):
        if held.lines:
            record.msg["held_back"] = held.lines
        if held.partitions:
            record.msg["held_back_partitions"] = sorted(held.partitions)
        return
    words = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None and record.levelno < logging.ERROR:
        words, record.exc_info = f"{words}: {record.exc_info[1]!r}", None
    if held.lines:
        words += f" ({held.lines} more lines of {record.name.partition('.')[0]} were left out)"
    record.msg, record.args = words, None


def quiet_late_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Log in a line, without traceback, errors that aiokafka has left behind: nobody waits for their results any more.

    A producer that is fenced, or discarded, leaves some. Whoever waited has been told by another way. An error of the
    brokers is logged at level debug, one of aiokafka itself as a warning: a task of its own may have ended of it.
    """
    log = structlog.get_logger("inmail.kafka")

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, KafkaError) and "never retrieved" in context.get("message", ""):
            log.debug("late_error", error=repr(error))
        elif error is not None and (raised_in := _raised_in(error)).startswith("aiokafka."):
            log.warning("kafka_client_error", error=repr(error), raised_in=raised_in)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


def _raised_in(error: BaseException) -> str:
    """Return the module and the function that raised an error."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return f"{frames[-1].f_globals.get('__name__')}.{frames[-1].f_code.co_name}" if frames else ""
