"""The request of an operation, parsed from its record, so that the operation can continue."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from infra.settings import Settings
from infra.shards import settings_of_shards
from schemas.dead_letters import DeadLetterReason
from workers.console.parameters import parse_places
from workers.ledger.model import WorkerName
from workers.ops.books.shards import has_one_server
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive_plan import RedriveOptions
from workers.ops.operations import Operation, RefusedError
from workers.ops.replay.rebuild_plan import RebuildRequest, database_of
from workers.ops.replay.reemit_rows import RowFilter
from workers.ops.replay.rewind_plan import RewindOptions
from workers.ops.replay.rewind_target import VERB as REWIND
from workers.ops.replay.rewind_target import RewindTarget, TargetKind

__all__ = ["REBUILD_VERBS", "parse_rebuild", "parse_redrive", "parse_reemit", "parse_rewind", "resume_command"]

REBUILD_VERBS: Final = frozenset({"replay rebuild", "replay shadow"})
_IN_A_SCHEMA: Final = re.compile(r" schema (\w+)$")  # as `database_of` names it
_TARGET_CONVERTERS: Final[Mapping[TargetKind, Callable[[Any], Any]]] = {
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

_CONVERTERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "reason": DeadLetterReason,
    "worker": WorkerName,
    "request": UUID,
    "after": datetime.fromisoformat,
    "before": datetime.fromisoformat,
    "places": parse_places,
}


def parse_redrive(operation: Operation) -> tuple[LetterFilter, RedriveOptions]:
    """Return the filter and the options of a redrive.

    Raises:
        RefusedError: when another version wrote the record.

    """
    arguments = dict(operation.arguments)
    try:
        return LetterFilter(**_convert(arguments.pop("selection"))), RedriveOptions(**arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise _version_error(operation) from error


def parse_reemit(operation: Operation) -> tuple[RowFilter, str | None, float]:
    """Return the row filter, the target topic and the rate (events a second) of a reemission.

    Raises:
        RefusedError: when another version wrote the record.

    """
    arguments = operation.arguments
    try:
        return RowFilter(**_convert(arguments["selection"])), arguments["to"], float(operation.plan["rate"])
    except (KeyError, TypeError, ValueError) as error:
        raise _version_error(operation) from error


def parse_rewind(operation: Operation) -> tuple[WorkerName, RewindTarget, RewindOptions]:
    """Return the worker, the target and the options of a rewind.

    Raises:
        RefusedError: when another version wrote the record.

    """
    arguments = operation.arguments
    try:
        kind = TargetKind(arguments["to"])
        target = RewindTarget(kind, _TARGET_CONVERTERS[kind](arguments["value"]), tuple(arguments["partitions"]))
        return WorkerName(arguments["worker"]), target, RewindOptions(arguments["publish_again"], arguments["drain"])
    except (KeyError, TypeError, ValueError) as error:
        raise _version_error(operation) from error


def parse_rebuild(settings: Settings, operation: Operation) -> RebuildRequest:
    """Return the request of a rebuild or a shadow run into a schema of the live database.

    Of several servers, an operation is the part of one: the request is for all of them, as the command's is.

    Raises:
        RefusedError: when the run is in another database, whose address is not recorded, when its catalogues have
            changed, when it was of one server and there are several now, or the other way round, or when another
            version wrote the record.
        OSError: when a catalogue of the run cannot be read.

    """
    arguments = operation.arguments
    try:
        found = _IN_A_SCHEMA.search(arguments["database"])
        since, start, until = (
            arguments[name] and datetime.fromisoformat(arguments[name]) for name in ("since", "from", "until")
        )
        request = RebuildRequest(
            operation.verb,
            schema=found[1] if found else None,
            catalogue=arguments["catalogue"],
            changes=tuple(arguments["set"]),
            since=since,
            start=start,
            until=until,
            partial=bool(operation.plan["lost_to_retention"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _version_error(operation) from error
    part = replace(request, numbers=tuple(arguments.get("numbers", ())))
    of_servers = [part.arguments(each) for each in settings_of_shards(settings)]
    if request.schema is None or bool(part.numbers) == has_one_server(settings) or arguments not in of_servers:
        raise RefusedError(
            "the run is in another database, whose address is not recorded, or its catalogues or the servers have"
            " changed: continue with the command that the page shows"
        )
    return request


def resume_command(settings: Settings, operation: Operation) -> str | None:
    """Return the command line that continues an operation; None for an unknown verb or a record of another version.

    The address of another database is never recorded: the command has `postgresql://...`, to be filled in.
    """
    try:
        if operation.verb in REBUILD_VERBS:
            words = [*operation.verb.split(), *_rebuild_words(settings, operation)]
        elif operation.verb == REWIND:
            worker, target, options = parse_rewind(operation)
            words = ["replay", REWIND, worker.value, f"--{_REWIND_OPTIONS[target.kind]}", _target_text(target)]
            words += [f"--partition={number}" for number in target.partitions]
            words += ["--publish-again"] * options.publish_again + ["--drain"] * options.drain
        else:
            return None
    except (KeyError, TypeError, ValueError, RefusedError):
        return None
    return shlex.join(["inmail", *words, "--because", operation.reason])


def _target_text(target: RewindTarget) -> str:
    return target.value.isoformat() if isinstance(target.value, datetime) else str(target.value)


def _rebuild_words(settings: Settings, operation: Operation) -> Iterator[str]:
    arguments = operation.arguments
    database = arguments["database"]
    found = _IN_A_SCHEMA.search(database)
    if found is None or all(
        database != database_of(each, RebuildRequest(operation.verb, schema=found[1]))
        for each in settings_of_shards(settings)
    ):
        yield from ("--database", f"postgresql://...@{_IN_A_SCHEMA.sub('', database)}")
    if found is not None:
        yield from ("--schema", found[1])
    if arguments["catalogue"]:
        yield from ("--catalogue", arguments["catalogue"])
    for change in arguments["set"]:
        yield from ("--set", change)
    for name in ("since", "from", "until"):
        if arguments[name]:
            yield from (f"--{name}", arguments[name])
    if operation.plan["lost_to_retention"]:
        yield "--partial"


def _convert(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _CONVERTERS[name](value) if name in _CONVERTERS else value for name, value in arguments.items()}


def _version_error(operation: Operation) -> RefusedError:
    return RefusedError(f"another version recorded operation {operation.operation}: plan it again")
