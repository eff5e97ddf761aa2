"""The commands that decide the topics again into other books and compare: `replay rebuild` and `replay shadow`."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import PostgresDsn, SecretStr, ValidationError

from infra.settings import Settings
from workers.commands.options import INSTANT_FORMATS, Because, By, Json, Yes, aware, confirm, who, write_json
from workers.commands.running import Exit, ask
from workers.commands.show_rerun import show_comparison, show_plan, show_rerun
from workers.commands.terminal import error_console, progress_of
from workers.ops.compare import Comparison
from workers.ops.compare_page import page_of
from workers.ops.operations import Running
from workers.ops.rerun import Who, rerun
from workers.ops.rerun_plan import Asked, Plan, plan_rerun
from workers.stops import stop_requested

__all__ = ["rebuild_command", "shadow_command"]

_Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="postgresql:// address of an empty database for the other books."),
]
_Schema = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="An empty schema for them, made if need be; without --database in the live one."),
]
_Rate = Annotated[float | None, typer.Option(min=1, help="Records a second at most; as fast as it goes unless given.")]
_Page = Annotated[Path | None, typer.Option("--page", metavar="FILE", help="Write the comparison as an HTML page.")]
_Partial = Annotated[bool, typer.Option("--partial", help="Also where retention has taken the beginning of a topic.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]


def rebuild_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    database: _Database = None,
    schema: _Schema = None,
    rate: _Rate = None,
    page: _Page = None,
    by: By = None,
    because: Because = None,
    *,
    partial: _Partial = False,
    dry_run: _DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Decide all topics again into an empty database, publish nothing, and compare: the books must be the same.

    Reads as far as the live books have read. Ctrl-C stops between two transactions; the same command goes on from there
    and, where all was read, compares again.
    """
    asked = Asked("replay rebuild", *_place(database, schema), partial=partial)
    comparison = _run(asked, rate, None if dry_run else Who(*who(by, because)), page, yes=yes, json=json)
    if comparison is not None and not comparison.same:
        raise typer.Exit(Exit.NO)


def shadow_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    database: _Database = None,
    schema: _Schema = None,
    catalogue: Annotated[Path | None, typer.Option(help="Plan catalogue to decide by; the live one if none.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another value for the catalogue: 'plans.*.rollover=false'."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=INSTANT_FORMATS, help="It holds for what was read from then on; before, the live one does."
        ),
    ] = None,
    start: Annotated[
        datetime | None,
        typer.Option("--from", formats=INSTANT_FORMATS, help="Leave out what was read before: lots too."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=INSTANT_FORMATS, help="Leave out what was read then or later.")
    ] = None,
    rate: _Rate = None,
    page: _Page = None,
    by: By = None,
    because: Because = None,
    *,
    partial: _Partial = False,
    dry_run: _DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Decide the topics again by this version and another catalogue into an empty database, and say what would differ.

    Nothing is published and the live books stay as they are. Ctrl-C stops between two transactions; the same command
    goes on from there.
    """
    asked = Asked(
        "replay shadow",
        *_place(database, schema),
        str(catalogue.resolve()) if catalogue else None,
        tuple(changes or ()),
        aware(since),
        aware(start),
        aware(until),
        partial,
    )
    _run(asked, rate, None if dry_run else Who(*who(by, because)), page, yes=yes, json=json)


def _place(url: str | None, schema: str | None) -> tuple[SecretStr | None, str | None]:
    """Return where the other books are to be."""
    if url is None:
        if schema is None:
            raise typer.BadParameter("say where the other books are to be", param_hint="--database or --schema")
        return None, schema
    try:
        PostgresDsn(url)
    except ValidationError as error:
        raise typer.BadParameter(f"expected a postgresql:// address: {error.errors()[0]['msg']}") from None
    return SecretStr(url), schema


def _run(  # noqa: PLR0913 - what both verbs are asked
    asked: Asked, rate: float | None, person: Who | None, page: Path | None, *, yes: bool, json: bool
) -> Comparison | None:
    plan = ask(lambda settings: plan_rerun(settings, asked))
    if not json:
        show_plan(plan, rate)
    if person is None:
        if json:
            write_json({"plan": plan.summary()})
        return None
    confirm(f"Decide {plan.records:,} records again into {plan.database}?", yes=yes)
    done, comparison = _rerun(asked, plan, person, rate)
    if page is not None and comparison is not None:
        facts = {"database": plan.database, "by": person.actor, "because": person.reason}
        page.write_text(page_of(comparison, f"inmail {asked.verb}, operation {done.number}", facts), encoding="utf-8")
    if json:
        answer = {"operation": done.number, "plan": plan.summary(), "result": done.result}
        write_json(answer | {"comparison": comparison.summary() if comparison else None})
    else:
        show_rerun(done)
        if comparison is not None:
            show_comparison(comparison)
    if done.stopped:
        raise typer.Exit(Exit.INTERRUPTED)
    return comparison


def _rerun(asked: Asked, plan: Plan, person: Who, rate: float | None) -> tuple[Running, Comparison | None]:
    with progress_of(max(1, plan.records), "records", error_console()) as progress:

        async def run(settings: Settings) -> tuple[Running, Comparison | None]:
            return await rerun(settings, asked, plan, who=person, stop=stop_requested(), rate=rate, progress=progress)

        return ask(run)
