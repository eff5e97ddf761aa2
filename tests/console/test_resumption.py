"""Requests of operations, parsed from their records, to continue in the console or by a command line."""

import asyncio
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import typer.main

from infra.settings import load_settings
from workers.cli import app
from workers.console import operation_runner
from workers.console.operation_runner import OperationRunner, PlannedRedrive, _RunningOperation
from workers.console.resumption import parse_rebuild, parse_redrive, parse_reemit, parse_rewind, resume_command
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive_plan import RedriveOptions, RedrivePlan
from workers.ops.operations import OngoingOperation, Operation, Operator, RefusedError
from workers.ops.replay.rebuild_plan import RebuildRequest
from workers.ops.replay.rewind_plan import RewindOptions
from workers.ops.replay.rewind_target import RewindTarget, TargetKind

NOW = datetime(2026, 1, 31, tzinfo=UTC)
SETTINGS = load_settings(database_url="postgresql://me:secret@books:5432/inmail")
WHOLE = {"lost_to_retention": 0}


def operation(arguments: dict[str, Any], plan: dict[str, Any], verb: str = "redrive") -> Operation:
    """Return a stopped operation with these arguments and plan."""
    return Operation(7, verb, "me", "it's so", arguments, plan, NOW, NOW, NOW, "stopped", {})


def test_a_request_is_parsed_from_its_record() -> None:
    """Filter and options are equal to the recorded ones; a record of another version is refused."""
    given = {"selection": {"reason": "unknown_plan", "after": "2026-01-31T00:00:00+00:00", "places": ["3/17"]}}
    chosen, how = parse_redrive(operation(given | {"rate": 5.0, "limit": None, "again": True, "anyway": False}, {}))
    assert ("unknown_plan", NOW, frozenset({(3, 17)})) == (chosen.reason, chosen.after, chosen.places)
    assert given["selection"] == chosen.summary()
    assert RedriveOptions(5.0, None, again=True) == how
    rows, to, rate = parse_reemit(operation({"selection": {"worker": "send", "partition": 3}, "to": None}, {"rate": 9}))
    assert ("send", 3, None, 9.0) == (rows.worker, rows.partition, to, rate)
    for wrong in ({}, {"selection": {"colour": "red"}, "to": None}, {"selection": {"reason": "none"}}):
        for read in (parse_redrive, parse_reemit):
            with pytest.raises(RefusedError, match="operation 7"):
                read(operation(wrong, {"rate": 1}))


@pytest.mark.parametrize(("options", "can"), [({}, True), ({"again": True}, False), ({"limit": 100}, False)])
def test_a_redrive_that_would_begin_or_count_anew_is_not_continued(options: dict[str, Any], can: bool) -> None:  # noqa: FBT001
    """It says that it repeats nothing: all that was sent again would be sent once more, or as many on top."""
    asked = {"rate": 5.0, "limit": None, "again": False, "anyway": False} | options

    assert can == OperationRunner(SETTINGS).can_resume(operation({"selection": {}} | asked, {}))


def recorded_rebuild(asked: RebuildRequest, plan: dict[str, Any] = WHOLE) -> Operation:
    """Return the record of a rebuild or a shadow run."""
    return operation(asked.arguments(SETTINGS), plan, asked.verb)


def recorded_rewind(target: RewindTarget, **options: bool) -> Operation:
    """Return the record of a rewind."""
    kept = {"worker": "send", "publish_again": False, "drain": False} | options
    return operation(kept | target.summary(), {}, "rewind")


def parse_command(command: str | None) -> dict[str, Any]:
    """Return the parameters that the command line parses; unknown commands and options raise."""
    assert command is not None
    program, *arguments = shlex.split(command)
    assert "inmail" == program
    known: Any = typer.main.get_command(app)
    while hasattr(known, "commands"):
        _, known, arguments = known.resolve_command(known.context_class(known), arguments)
    return {name: value for name, value in known.make_context(known.name, arguments).params.items() if value}


def test_the_console_continues_a_run_in_a_schema_of_the_live_database() -> None:
    """The parsed request equals the original one, and the command line has the same parameters."""
    asked = RebuildRequest(
        "replay shadow", schema="other", changes=("plans.*.rollover=false",), since=NOW, partial=True
    )
    kept = recorded_rebuild(asked, {"lost_to_retention": 3})

    assert asked == parse_rebuild(SETTINGS, kept)
    assert OperationRunner(SETTINGS).can_resume(kept)
    assert not OperationRunner(SETTINGS).can_resume(replace(kept, status="done"))
    given = parse_command(resume_command(SETTINGS, kept))
    assert ("other", ["plans.*.rollover=false"], NOW, True) == tuple(
        given[name] for name in ("schema", "changes", "since", "partial")
    )
    assert ("it's so", None) == (given["because"], given.get("database"))


def test_a_run_in_another_database_continues_by_its_command() -> None:
    """The record has no address of a database. Runs with changed catalogues cannot continue in the console either."""
    there = load_settings(database_url="postgresql://you:secret@there:5432/other").database_url
    for schema in (None, "mine"):
        kept = recorded_rebuild(RebuildRequest("replay rebuild", url=there, schema=schema))
        with pytest.raises(RefusedError, match="another database"):
            parse_rebuild(SETTINGS, kept)
        assert not OperationRunner(SETTINGS).can_resume(kept)
        command = resume_command(SETTINGS, kept)
        assert "secret" not in str(command)
        given = parse_command(command)
        assert ("postgresql://...@there:5432/other", schema) == (given["database"], given.get("schema"))
    kept = recorded_rebuild(RebuildRequest("replay rebuild", schema="other"))
    kept.arguments["catalogues_sha256"] = ["0", "0"]
    with pytest.raises(RefusedError, match="its catalogues or the servers have changed"):
        parse_rebuild(SETTINGS, kept)


@pytest.mark.parametrize(
    ("target", "option"),
    [
        (RewindTarget(TargetKind.OFFSET, 7, (1, 2)), "to_offset"),
        (RewindTarget(TargetKind.TIME, NOW), "to_time"),
        (RewindTarget(TargetKind.UNDO, 3), "undo"),
    ],
)
def test_a_rewind_is_parsed_from_its_record(target: RewindTarget, option: str) -> None:
    """Target and options are equal to the recorded ones; a rewind that was set cannot continue."""
    kept = recorded_rewind(target, publish_again=True)
    assert ("send", target, RewindOptions(publish_again=True)) == parse_rewind(kept)
    assert OperationRunner(SETTINGS).can_resume(kept)
    assert not OperationRunner(SETTINGS).can_resume(replace(kept, result={"set": True}))
    given = parse_command(resume_command(SETTINGS, kept))
    assert ("send", target.value, list(target.partitions), True) == (
        given["worker"],
        given[option],
        given.get("partition", []),
        given["publish_again"],
    )


def test_an_unknown_record_cannot_continue() -> None:
    """A verb or arguments of another version give no command."""
    for kept in (operation({}, {}, "mend"), operation({}, {}, "rewind"), operation({}, {}, "replay rebuild")):
        assert resume_command(SETTINGS, kept) is None
        assert not OperationRunner(SETTINGS).can_resume(kept)


async def test_a_plan_that_another_redrive_held_up_can_be_started_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever presses again is told of the other redrive again, and not that the plan was started."""

    async def allow(*_: object) -> None: ...

    async def run() -> OngoingOperation:
        await asyncio.Event().wait()
        raise AssertionError("it only has to be there")

    monkeypatch.setattr(operation_runner, "check_rights", allow)
    runner, me = OperationRunner(SETTINGS), Operator("me", "it's so")
    runner._plans["mine"] = PlannedRedrive(LetterFilter(), RedriveOptions(), RedrivePlan(1.0, places={(0, 1, None)}))
    task = asyncio.create_task(run())
    runner._running["redrive"] = _RunningOperation(me, asyncio.Event(), task)
    for _ in range(2):
        with pytest.raises(RefusedError, match="another redrive is running here"):
            await runner.redrive("mine", me)
    task.cancel()

    assert ["mine"] == list(runner._plans)
