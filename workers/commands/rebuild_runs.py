"""Carries out a rebuild as its commands ask: of the only server, or of several in turn, and one comparison of all."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import typer

from infra.settings import Settings
from infra.shards import number_ranges
from infra.shutdown import create_stop_event
from infra.terminal import console, error_console, show_progress
from schemas.envelope import encode
from workers.commands.options import confirm, write_json, write_planned
from workers.commands.running import Exit, run_command
from workers.commands.views.rebuild import show_comparison, show_corrections, show_rebuild_plan, show_rebuild_result
from workers.ops.books.shards import naming_server
from workers.ops.compare.comparison import Comparison
from workers.ops.compare.corrections import Corrections, find_corrections
from workers.ops.compare.html_report import render_page
from workers.ops.operations import OngoingOperation, Operator
from workers.ops.replay.rebuild import rebuild
from workers.ops.replay.rebuild_plan import RebuildRequest
from workers.ops.replay.rebuild_servers import ServerRebuild, plan_each_server

__all__ = ["RebuildFiles", "run_rebuild"]

_Done = tuple[OngoingOperation, Comparison | None]


class RebuildFiles(NamedTuple):
    """The files for the comparison and the adjustments."""

    page: Path | None = None
    corrections: Path | None = None

    def check_writable(self) -> None:
        """Check that the files can be written, and leave them as they are.

        Raises:
            OSError: when one cannot be; it names the file.

        """
        for file in filter(None, self):
            if file.is_fifo():  # whoever reads it would see its end
                continue
            existed = file.exists()
            file.open("ab").close()
            if not existed:
                file.unlink()


def run_rebuild(  # noqa: PLR0913 - the arguments of both verbs
    request: RebuildRequest, rate: float | None, person: Operator | None, files: RebuildFiles, *, yes: bool, json: bool
) -> Comparison | None:
    """Plan, confirm and carry out a rebuild; show and return the comparison, None without one.

    Files that cannot be written end the command before it plans. Where writing them fails in the end, what was decided
    and compared is shown all the same.
    """
    rebuilds = run_command(partial(_plan, request, files))
    if not json:
        _show_plans(rebuilds, rate)
    elif person is None:
        _write_plans(rebuilds)
    if person is None:
        return None
    records = sum(each.plan.records for each in rebuilds)
    databases = ", ".join(each.plan.database for each in rebuilds)
    confirm(f"Decide {records:,} records again into {databases}?", yes=yes)
    done = _decide(rebuilds, person, rate)
    comparison = _compared(rebuilds, done)
    answer = _answer(rebuilds, done) | {"comparison": comparison.summary() if comparison else None}
    if not json:
        _show_done(rebuilds, done, comparison)
    try:
        if files.page is not None and comparison is not None:
            facts = {"database": databases, "by": person.actor, "because": person.reason}
            operations = ", ".join(str(operation.number) for operation, _ in done)
            _write_file(files.page, render_page(comparison, f"inmail {request.verb}, operation {operations}", facts))
        if files.corrections is not None and comparison is not None:
            corrections = _write_corrections(rebuilds, person, files.corrections)
            answer["corrections"] = corrections.summary()
            if not json:
                show_corrections(corrections, str(files.corrections))
    finally:
        if json:
            write_json(answer)
    if done[-1][0].stopped:
        raise typer.Exit(Exit.INTERRUPTED)
    return comparison


async def _plan(request: RebuildRequest, files: RebuildFiles, settings: Settings) -> list[ServerRebuild]:
    files.check_writable()  # now, since a rebuild may take hours before it writes them
    return await plan_each_server(settings, request)


def _decide(rebuilds: Sequence[ServerRebuild], person: Operator, rate: float | None) -> list[_Done]:
    """Carry out the rebuilds one after the other, until one is stopped."""
    done: list[_Done] = []
    for each in rebuilds:
        done.append(_rebuild_with_progress(each, person, rate))
        if done[-1][0].stopped:
            break
    return done


def _show_plans(rebuilds: Sequence[ServerRebuild], rate: float | None) -> None:
    for each in rebuilds:
        _name_server(each)
        show_rebuild_plan(each.plan, rate)


def _write_plans(rebuilds: Sequence[ServerRebuild]) -> None:
    if rebuilds[0].name is None:
        write_planned(rebuilds[0].plan)
    else:
        write_json({"servers": [each.summary() for each in rebuilds]})


def _compared(rebuilds: Sequence[ServerRebuild], done: Sequence[_Done]) -> Comparison | None:
    """Return the comparison of all servers; None where a stop left a server."""
    found = [comparison for _, comparison in done if comparison is not None]
    if len(found) < len(rebuilds):
        return None
    return found[0] if len(found) == 1 else Comparison.of_all(found)


def _show_done(rebuilds: Sequence[ServerRebuild], done: Sequence[_Done], comparison: Comparison | None) -> None:
    for each, (operation, _) in zip(rebuilds, done, strict=False):  # a stop leaves some
        _name_server(each)
        show_rebuild_result(operation, each.request)
    if comparison is not None:
        show_comparison(comparison)


def _name_server(rebuild_: ServerRebuild) -> None:
    """Name one of several servers before what is told of it."""
    if rebuild_.name is not None:
        console().print(f"{rebuild_.name}, numbers {number_ranges(rebuild_.request.numbers)}:", soft_wrap=True)


def _answer(rebuilds: Sequence[ServerRebuild], done: Sequence[_Done]) -> dict[str, Any]:
    """Return what was done for JSON: of one server, or of each of several."""
    told = [
        {"operation": operation.number, "plan": each.plan.summary(), "result": operation.result}
        for each, (operation, _) in zip(rebuilds, done, strict=False)
    ]
    if rebuilds[0].name is None:
        return told[0]
    return {"servers": [each.summary() | one for each, one in zip(rebuilds, told, strict=False)]}


def _write_corrections(rebuilds: Sequence[ServerRebuild], person: Operator, file: Path) -> Corrections:
    """Find the adjustments, write them to a file and return them."""
    found = Corrections()
    for each in rebuilds:
        found.add(run_command(partial(_find_corrections, each, person)))
    _write_file(file, b"".join(encode(event) + b"\n" for event in found.events))
    return found


def _write_file(file: Path, content: str | bytes) -> None:
    """Write a file; an error ends the process with its sentence."""

    async def write(_: Settings) -> None:
        _write_content(file, content.encode() if isinstance(content, str) else content)

    run_command(write)


def _write_content(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        error.filename = str(file)  # that of a full disk has none
        raise


async def _find_corrections(rebuild_: ServerRebuild, person: Operator, _: Settings) -> Corrections:
    request = rebuild_.request
    whole = request.start is None and not request.partial
    with naming_server(rebuild_.server):
        return await find_corrections(rebuild_.server, rebuild_.target, *person, whole=whole, numbers=request.numbers)


def _rebuild_with_progress(rebuild_: ServerRebuild, person: Operator, rate: float | None) -> _Done:
    with show_progress(max(1, rebuild_.plan.records), "records", error_console()) as progress:

        async def run(settings: Settings) -> _Done:
            with naming_server(rebuild_.server):
                return await rebuild(
                    rebuild_.server,
                    rebuild_.request,
                    rebuild_.plan,
                    who=person,
                    stop=create_stop_event(),
                    rate=rate,
                    progress=progress,
                    noted_on=settings,
                )

        return run_command(run)
