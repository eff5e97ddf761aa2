"""The commands that decide the topics again into a target ledger and compare: `replay rebuild` and `replay shadow`."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import PostgresDsn, SecretStr, ValidationError

from schemas.billing import CreditsAdjustedData
from workers.commands.options import (
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    check_finite,
    instant_option,
    require_operator,
)
from workers.commands.rebuild_runs import RebuildFiles, run_rebuild
from workers.commands.running import Exit
from workers.ops.operations import Operator
from workers.ops.replay.rebuild_plan import RebuildRequest

__all__ = ["rebuild_command", "shadow_command"]

_DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="The postgresql:// address of an empty database, to decide into and compare with the live one.",
    ),
]
_SchemaOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="An empty schema to decide into, created if missing; without --database, in the live database.",
    ),
]
_RateOption = Annotated[
    float | None,
    typer.Option(min=1, callback=check_finite, help="Maximum rate, in records per second; default: unlimited."),
]
_PageOption = Annotated[
    Path | None, typer.Option("--page", metavar="FILE", help="Write the comparison as an HTML page.")
]
_PartialOption = Annotated[bool, typer.Option("--partial", help="Allow topics whose first records are gone.")]
_CatalogueOption = Annotated[Path | None, typer.Option(help="The plan catalogue to decide by; default: the live one.")]
_ChangesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a value of the catalogue, like 'plans.*.rollover=false'; repeatable.",
    ),
]
_SinceOption = Annotated[
    datetime | None,
    instant_option(help="Use the catalogue for records from this time on, and the live catalogue before."),
]
_FromOption = Annotated[
    datetime | None,
    instant_option("--from", help="Leave out records before this time, and the lots they opened.", since_1970=True),
]
_CorrectionsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Write the adjustments that would correct the live ledger, for `inmail publish`."
    ),
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
    """Decide all topics again into an empty database, publish nothing, and compare it with the live database.

    Reads up to where the live workers have read; the two must be equal. Ctrl-C stops between two transactions; the same
    command continues there, and compares again if all was read.
    """
    request = RebuildRequest("replay rebuild", *_target_place(database, schema), partial=partial)
    comparison = run_rebuild(
        request, rate, None if dry_run else require_operator(by, because), RebuildFiles(page), yes=yes, json=json
    )
    if comparison is not None and not comparison.same:
        raise typer.Exit(Exit.NO)


def shadow_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    database: _DatabaseOption = None,
    schema: _SchemaOption = None,
    catalogue: _CatalogueOption = None,
    changes: _ChangesOption = None,
    since: _SinceOption = None,
    start: _FromOption = None,
    until: Annotated[datetime | None, instant_option(help="Leave out records at or after this time.")] = None,
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
    """Decide the topics again with this version and another catalogue into an empty database, and show the differences.

    Publishes nothing and does not change the live database. Ctrl-C stops between two transactions; the same command
    continues there.
    """
    if corrections is not None and until is not None:
        raise typer.BadParameter("needs all records up to now: leave out --until", param_hint="--corrections")
    request = RebuildRequest(
        "replay shadow",
        *_target_place(database, schema),
        str(catalogue.resolve()) if catalogue else None,
        tuple(changes or ()),
        since,
        start,
        until,
        partial,
    )
    person = None if dry_run else require_operator(by, because)
    if corrections is not None and person is not None:
        _check_adjustment_texts(person)
    run_rebuild(request, rate, person, RebuildFiles(page, corrections), yes=yes, json=json)


def _target_place(url: str | None, schema: str | None) -> tuple[SecretStr | None, str | None]:
    """Return the address and the schema of the target database."""
    if url is None:
        if schema is None:
            raise typer.BadParameter("give a database or schema to decide into", param_hint="--database or --schema")
        return None, schema
    try:
        PostgresDsn(url)
    except ValidationError as error:
        raise typer.BadParameter(f"expected a postgresql:// address: {error.errors()[0]['msg']}") from None
    return SecretStr(url), schema


def _check_adjustment_texts(person: Operator) -> None:
    """Refuse an actor or a reason that an adjustment cannot contain, before the topics are read."""
    try:
        CreditsAdjustedData(credits=1, actor=person.actor, reason=person.reason)
    except ValidationError as error:
        first = error.errors()[0]
        hint = "--by" if first["loc"] == ("actor",) else "--because"
        raise typer.BadParameter(f"an adjustment cannot contain it: {first['msg']}", param_hint=hint) from None
