"""What an operation was asked for, read back from its record: the same again goes on with it."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from schemas.results import DeadLetterReason
from workers.ledger.model import Worker
from workers.ops import reemit_plan
from workers.ops.dead_letters import Selection
from workers.ops.operations import Operation, RefusedError
from workers.ops.redrive_plan import Options

__all__ = ["redrive_of", "reemission_of"]

_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "reason": DeadLetterReason,
    "worker": Worker,
    "request": UUID,
    "after": datetime.fromisoformat,
    "before": datetime.fromisoformat,
}


def redrive_of(operation: Operation) -> tuple[Selection, Options]:
    """Return which letters a redrive meant and how it was to be done.

    Raises:
        RefusedError: when its record is of another version.

    """
    given = dict(operation.arguments)
    try:
        return Selection(**_read(given.pop("selection"))), Options(**given)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(operation) from error


def reemission_of(operation: Operation) -> tuple[reemit_plan.Selection, str | None, float]:
    """Return which rows a reemission meant, where to, and how many events a second.

    Raises:
        RefusedError: when its record is of another version.

    """
    given = operation.arguments
    try:
        return reemit_plan.Selection(**_read(given["selection"])), given["to"], float(operation.plan["rate"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(operation) from error


def _read(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _READ[name](value) if name in _READ else value for name, value in given.items()}


def _unreadable(operation: Operation) -> RefusedError:
    return RefusedError(f"operation {operation.operation} was asked for in another version's words: plan it anew")
