"""Keeps the console's time series over a restart, in a local file.

Why a file: the console only reads Kafka and Postgres, with rights to nothing else. A table would need a right to write
into the ledger's database, and a topic a right to produce; and neither knows the past by itself: Kafka keeps the newest
committed offset of each group, and to count a day's outcomes in the journal takes a time that grows with it. The
file has at most 828 buckets, is written once a minute and at the end, and may be lost: the charts then begin anew.
"""

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from workers.console.time_series import Bucket, TimeRange, TimeSeries

__all__ = ["load_series", "save_series"]

_VERSION: Final = 1
_BUCKETS: Final = TypeAdapter(dict[TimeRange, list[Bucket]])
_MAX_BYTES: Final = 16 * 1024 * 1024


def load_series(file: Path, now: datetime) -> tuple[TimeSeries, str | None]:
    """Return the history in a file, and why the file could not be used, if it could not.

    A file that does not exist, or of another version, is no problem: the history begins anew.
    """
    history = TimeSeries()
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            return history, f"{file} has more than {_MAX_BYTES:,} bytes, and was not read"
        document = TypeAdapter(dict[str, Any]).validate_json(data)
        if document.get("version") == _VERSION:
            for range_, buckets in _BUCKETS.validate_python(document.get("ranges")).items():
                history.restore(range_, buckets, now)
    except FileNotFoundError:
        return history, None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no history of a console"
        return TimeSeries(), f"{file} cannot be read: {reason}"
    return history, None


def save_series(file: Path, ranges: dict[TimeRange, list[Bucket]]) -> str | None:
    """Write a history, and return why it could not be written, if it could not. A crash leaves the file of before."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(to_json({"version": _VERSION, "ranges": ranges}))
        beside.replace(file)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        return f"{file} cannot be written: {error.strerror or error}"
    return None
