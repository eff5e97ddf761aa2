"""Structured logs on standard error or in a file: JSON lines in production, readable lines on a terminal."""

import asyncio
import logging
import math
import sys
import time
from typing import Any, TextIO

import structlog
from aiokafka.errors import KafkaError

from infra.settings import LogFormat, Settings

__all__ = ["configure_logging", "quiet_late_errors"]

_CLIENT_SECONDS = 10.0


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
    # aiokafka logs every rebalance step, and as a warning each retriable answer during a transaction. Only its errors
    # are kept, and not the forty a second that it logs while a broker is away.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    handler.addFilter(_OncePerInterval("aiokafka", _CLIENT_SECONDS))


class _OncePerInterval(logging.Filter):
    """Lets through one line of a library in so many seconds; the next one tells how many there were between."""

    def __init__(self, library: str, seconds: float) -> None:
        super().__init__()
        self._library, self._seconds = library, seconds
        self._last, self._dropped = -math.inf, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged. Those of other libraries, and critical ones, are."""
        if record.name.partition(".")[0] != self._library or record.levelno >= logging.CRITICAL:
            return True
        if time.monotonic() - self._last < self._seconds:
            self._dropped += 1
            return False
        if self._dropped:
            record.msg = f"{record.getMessage()} ({self._dropped} more lines of {self._library} were left out)"
            record.args = None
        self._last, self._dropped = time.monotonic(), 0
        return True


def quiet_late_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Log, at level debug, errors of futures that a library has left behind: nobody waits for their results any more.

    A fenced producer of aiokafka leaves some. Whoever waited has been told by another way.
    """

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, KafkaError) and "never retrieved" in context.get("message", ""):
            structlog.get_logger("inmail.kafka").debug("late_error", error=repr(error))
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
