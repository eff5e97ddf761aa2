"""The commands that decide the topics again into a target ledger and compare: `replay rebuild` and `replay shadow`."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from pydantic import PostgresDsn, SecretStr, ValidationError

from infra.settings import Settings
from infra.shutdown import stop_requested
from infra.terminal import error_console, progress_of
from schemas.billing import CreditsAdjustedData
from schemas.envelope import encode
from workers.commands.options import (
    INSTANT_FORMATS,
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    assume_utc,
    confirm,
    finite,
    operator,
    since_1970,
    write_json,
)
from workers.commands.running import Exit, run_command
from workers.commands.views.rebuild import show_comparison, show_corrections, show_rebuild_plan, show_rebuild_result
from workers.ops.compare.comparison import Comparison
from workers.ops.compare.corrections import Corrections, find_corrections
from workers.ops.compare.html_report import render_page
from workers.ops.operations import OngoingOperation, Operator
from workers.ops.replay.rebuild import rebuild
from workers.ops.replay.rebuild_plan import RebuildPlan, RebuildRequest, plan_rebuild, target_settings

__all__ = ["rebuild_command", "shadow_command"]

_DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="postgresql:// address of an empty database for the target ledger."),
]
_SchemaOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="An empty schema for the target ledger, created if missing; without --database, in the live database.",
    ),
]
_RateOption = Annotated[
    float | None,
    typer.Option(min=1, callback=finite, help="Maximum rate, in records per second; default: unlimited."),
]
_PageOption = Annotated[
    Path | None, typer.Option("--page", metavar="FILE", help="Write the comparison as an HTML page.")
]
_PartialOption = Annotated[
    bool, typer.Option("--partial", help="Also where retention has taken the beginning of a topic.")
]
_ChangesOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the catalogue: 'plans.*.rollover=false'."),
]
_SinceOption = Annotated[
    datetime | None,
    typer.Option(formats=INSTANT_FORMATS, help="It holds for what was read from then on; before, the live one does."),
]
_CorrectionsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write adjustments that would set the live books right, for `publish`."),
]


def rebuild_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    database: _DatabaseOption = None,
    schema: _SchemaOption = None,
    rate: _RateOption = None,
    page: _PageOption = None,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    partial: _PartialOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Decide all topics again into an empty database, publish nothing, and compare: the books must be the same.

    Reads as far as the live books have read. Ctrl-C stops between two transactions; the same command goes on from there
    and, where all was read, compares again.
    """
    asked = RebuildRequest("replay rebuild", *_place(database, schema), partial=partial)
    comparison = _run(
        asked, rate, None if dry_run else Operator(*operator(by, because)), _Files(page), yes=yes, json=json
    )
    if comparison is not None and not comparison.same:
        raise typer.Exit(Exit.NO)


def shadow_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    database: _DatabaseOption = None,
    schema: _SchemaOption = None,
    catalogue: Annotated[Path | None, typer.Option(help="Plan catalogue to decide by; the live one if none.")] = None,
    changes: _ChangesOption = None,
    since: _SinceOption = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=INSTANT_FORMATS, callback=since_1970, help="Leave out what was read before: lots too."
        ),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=INSTANT_FORMATS, help="Leave out what was read then or later.")
    ] = None,
    corrections: _CorrectionsOption = None,
    rate: _RateOption = None,
    page: _PageOption = None,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    partial: _PartialOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Decide the topics again by this version and another catalogue into an empty database, and say what would differ.

    Nothing is published and the live books stay as they are. Ctrl-C stops between two transactions; the same command
    goes on from there.
    """
    if corrections is not None and until is not None:
        raise typer.BadParameter("needs all that came up to now: no --until", param_hint="--corrections")
    asked = RebuildRequest(
        "replay shadow",
        *_place(database, schema),
        str(catalogue.resolve()) if catalogue else None,
        tuple(changes or ()),
        assume_utc(since),
        assume_utc(start),
        assume_utc(until),
        partial,
    )
    person = None if dry_run else Operator(*operator(by, because))
    if corrections is not None and person is not None:
        _check_words(person)
    _run(asked, rate, person, _Files(page, corrections), yes=yes, json=json)


class _Files(NamedTuple):
    """The files for the comparison and the adjustments."""

    page: Path | None = None
    corrections: Path | None = None


def _place(url: str | None, schema: str | None) -> tuple[SecretStr | None, str | None]:
    """Return the settings of the target ledger."""
    if url is None:
        if schema is None:
            raise typer.BadParameter("give the target ledger's place", param_hint="--database or --schema")
        return None, schema
    try:
        PostgresDsn(url)
    except ValidationError as error:
        raise typer.BadParameter(f"expected a postgresql:// address: {error.errors()[0]['msg']}") from None
    return SecretStr(url), schema


def _run(  # noqa: PLR0913 - what both verbs are asked
    asked: RebuildRequest, rate: float | None, person: Operator | None, files: _Files, *, yes: bool, json: bool
) -> Comparison | None:
    plan = run_command(lambda settings: plan_rebuild(settings, asked))
    if not json:
        show_rebuild_plan(plan, rate)
    if person is None:
        if json:
            write_json({"plan": plan.summary()})
        return None
    confirm(f"Decide {plan.records:,} records again into {plan.database}?", yes=yes)
    done, comparison = _rerun(asked, plan, person, rate)
    if files.page is not None and comparison is not None:
        facts = {"database": plan.database, "by": person.actor, "because": person.reason}
        page = render_page(comparison, f"inmail {asked.verb}, operation {done.number}", facts)
        files.page.write_text(page, encoding="utf-8")
    corrections = None
    if files.corrections is not None and comparison is not None:
        corrections = _correct(asked, person, files.corrections)
    if json:
        answer = {"operation": done.number, "plan": plan.summary(), "result": done.result}
        answer["comparison"] = comparison.summary() if comparison else None
        write_json(answer | ({"corrections": corrections.summary()} if corrections else {}))
    else:
        show_rebuild_result(done)
        if comparison is not None:
            show_comparison(comparison)
        if corrections is not None:
            show_corrections(corrections, str(files.corrections))
    if done.stopped:
        raise typer.Exit(Exit.INTERRUPTED)
    return comparison


def _check_words(person: Operator) -> None:
    """Refuse, before all is read, what an adjustment cannot carry."""
    try:
        CreditsAdjustedData(credits=1, actor=person.actor, reason=person.reason)
    except ValidationError as error:
        first = error.errors()[0]
        hint = "--by" if first["loc"] == ("actor",) else "--because"
        raise typer.BadParameter(f"an adjustment cannot carry it: {first['msg']}", param_hint=hint) from None


def _correct(asked: RebuildRequest, person: Operator, file: Path) -> Corrections:
    """Write the adjustments to a file."""
    whole = asked.start is None and not asked.partial
    found = run_command(
        lambda settings: find_corrections(settings, target_settings(settings, asked), *person, whole=whole)
    )
    file.write_bytes(b"".join(encode(event) + b"\n" for event in found.events))
    return found


def _rerun(
    asked: RebuildRequest, plan: RebuildPlan, person: Operator, rate: float | None
) -> tuple[OngoingOperation, Comparison | None]:
    with progress_of(max(1, plan.records), "records", error_console()) as progress:

        async def run(settings: Settings) -> tuple[OngoingOperation, Comparison | None]:
            return await rebuild(settings, asked, plan, who=person, stop=stop_requested(), rate=rate, progress=progress)

        return run_command(run)
