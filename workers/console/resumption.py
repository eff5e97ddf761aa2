"""What an operation was asked for, read back from its record: the same again goes on with it."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from infra.settings import Settings
from schemas.results import DeadLetterReason
from workers.ledger.model import WorkerName
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive_plan import RedriveOptions
from workers.ops.operations import Operation, RefusedError
from workers.ops.replay import reemit_plan
from workers.ops.replay.rebuild_plan import RebuildRequest, database_of
from workers.ops.replay.rewind_plan import RewindOptions
from workers.ops.replay.rewind_target import VERB as REWIND
from workers.ops.replay.rewind_target import RewindTarget, TargetKind

__all__ = ["RERUNS", "command_of", "redrive_of", "reemission_of", "rerun_of", "rewind_of"]

RERUNS: Final = frozenset({"replay rebuild", "replay shadow"})
_IN_A_SCHEMA: Final = re.compile(r" schema (\w+)$")  # as `database_of` names it
_VALUES: Final[Mapping[TargetKind, Callable[[Any], Any]]] = {
    TargetKind.OFFSET: int,
    TargetKind.TIME: datetime.fromisoformat,
    TargetKind.REQUEST: UUID,
    TargetKind.UNDO: int,
}
_REWIND_OPTIONS: Final = {
    TargetKind.OFFSET: "to-offset",
    TargetKind.TIME: "to-time",
    TargetKind.REQUEST: "to-request",
    TargetKind.UNDO: "undo",
}

_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "reason": DeadLetterReason,
    "worker": WorkerName,
    "request": UUID,
    "after": datetime.fromisoformat,
    "before": datetime.fromisoformat,
}


def redrive_of(operation: Operation) -> tuple[LetterFilter, RedriveOptions]:
    """Return which letters a redrive meant and how it was to be done.

    Raises:
        RefusedError: when its record is of another version.

    """
    given = dict(operation.arguments)
    try:
        return LetterFilter(**_read(given.pop("selection"))), RedriveOptions(**given)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(operation) from error


def reemission_of(operation: Operation) -> tuple[reemit_plan.RowFilter, str | None, float]:
    """Return which rows a reemission meant, where to, and how many events a second.

    Raises:
        RefusedError: when its record is of another version.

    """
    given = operation.arguments
    try:
        return reemit_plan.RowFilter(**_read(given["selection"])), given["to"], float(operation.plan["rate"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(operation) from error


def rewind_of(operation: Operation) -> tuple[WorkerName, RewindTarget, RewindOptions]:
    """Return whose group a rewind meant, where to, and how.

    Raises:
        RefusedError: when its record is of another version.

    """
    given = operation.arguments
    try:
        kind = TargetKind(given["to"])
        target = RewindTarget(kind, _VALUES[kind](given["value"]), tuple(given["partitions"]))
        return WorkerName(given["worker"]), target, RewindOptions(given["publish_again"], given["drain"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(operation) from error


def rerun_of(settings: Settings, operation: Operation) -> RebuildRequest:
    """Return what a rebuild or a shadow run decides again, where its books are a schema of the live database.

    Raises:
        RefusedError: when they are elsewhere, whose address is not on record, or its record is of another version.
        OSError: when a catalogue that it was begun with cannot be read.

    """
    given = operation.arguments
    try:
        found = _IN_A_SCHEMA.search(given["database"])
        since, start, until = (
            given[name] and datetime.fromisoformat(given[name]) for name in ("since", "from", "until")
        )
        asked = RebuildRequest(
            operation.verb,
            schema=found[1] if found else None,
            catalogue=given["catalogue"],
            changes=tuple(given["set"]),
            since=since,
            start=start,
            until=until,
            partial=bool(operation.plan["lost_to_retention"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(operation) from error
    if asked.schema is None or asked.arguments(settings) != given:
        raise RefusedError(
            "its books are another database, whose address is not on record, or its catalogues have changed: go on with"
            " the command that the page shows"
        )
    return asked


def command_of(settings: Settings, operation: Operation) -> str | None:
    """Return the command line that goes on with an operation; None of a verb or a record that is not known here.

    An address of another database is never on record: it stands as `postgresql://...`, to be filled in.
    """
    try:
        if operation.verb in RERUNS:
            words = [*operation.verb.split(), *_rerun_words(settings, operation)]
        elif operation.verb == REWIND:
            worker, target, options = rewind_of(operation)
            words = ["replay", REWIND, worker.value, f"--{_REWIND_OPTIONS[target.kind]}", _value(target)]
            words += [f"--partition={number}" for number in target.partitions]
            words += ["--publish-again"] * options.publish_again + ["--drain"] * options.drain
        else:
            return None
    except (KeyError, TypeError, ValueError, RefusedError):
        return None
    return shlex.join(["inmail", *words, "--because", operation.reason])


def _value(target: RewindTarget) -> str:
    return target.value.isoformat() if isinstance(target.value, datetime) else str(target.value)


def _rerun_words(settings: Settings, operation: Operation) -> Iterator[str]:
    given = operation.arguments
    place = given["database"]
    found = _IN_A_SCHEMA.search(place)
    if found is None or place != database_of(settings, RebuildRequest(operation.verb, schema=found[1])):
        yield from ("--database", f"postgresql://...@{_IN_A_SCHEMA.sub('', place)}")
    if found is not None:
        yield from ("--schema", found[1])
    if given["catalogue"]:
        yield from ("--catalogue", given["catalogue"])
    for change in given["set"]:
        yield from ("--set", change)
    for name in ("since", "from", "until"):
        if given[name]:
            yield from (f"--{name}", given[name])
    if operation.plan["lost_to_retention"]:
        yield "--partial"


def _read(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _READ[name](value) if name in _READ else value for name, value in given.items()}


def _unreadable(operation: Operation) -> RefusedError:
    return RefusedError(f"operation {operation.operation} was asked for in another version's words: plan it anew")
