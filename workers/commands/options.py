"""Options of several commands: JSON output, times, actor and reason."""

import getpass
import math
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic_core import to_json

from infra.clock import EPOCH
from workers.commands.running import Exit, fail
from workers.ops.operations import Operator

__all__ = [
    "INSTANT_FORMATS",
    "ActorOption",
    "DryRunOption",
    "JsonOption",
    "ReasonOption",
    "YesOption",
    "assume_utc",
    "check_finite",
    "check_since_1970",
    "confirm",
    "require_operator",
    "write_json",
]

INSTANT_FORMATS = ["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%d"]

JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")]
ActorOption = Annotated[str | None, typer.Option(help="The operator's name, for the record; default: the user's name.")]
ReasonOption = Annotated[str | None, typer.Option(help="The reason, for the record. Required except for a dry run.")]


def write_json(answer: object) -> None:
    """Write an answer as JSON to standard output."""
    typer.echo(to_json(answer, indent=2, bytes_mode="base64"))


def assume_utc(time: datetime | None) -> datetime | None:
    """Return a time with its zone; a day without a zone is in UTC."""
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def check_finite(number: float | None) -> float | None:
    """Return the number if it is finite; a range without an upper bound accepts `inf` and `nan`.

    Raises:
        typer.BadParameter: when the number is not finite.

    """
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"expected a number above 0, got {number}")
    return number


def check_since_1970(time: datetime | None) -> datetime | None:
    """Return the time if Kafka can represent it.

    Raises:
        typer.BadParameter: when the time is before 1970.

    """
    if (instant := assume_utc(time)) is not None and instant < EPOCH:
        raise typer.BadParameter("expected a time in 1970 or later: Kafka has no earlier times")
    return time


def require_operator(by: str | None, because: str | None) -> Operator:
    """Return the operator: the name and the reason, both for the record.

    Raises:
        typer.BadParameter: when one of the two is missing.

    """
    if not (because or "").strip():
        raise typer.BadParameter("give a reason, for the record", param_hint="--because")
    try:
        name = by or getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        name = ""
    if not name.strip():
        raise typer.BadParameter("give your name, for the record", param_hint="--by")
    return Operator(name.strip(), (because or "").strip())


def confirm(question: str, *, yes: bool) -> None:
    """Ask the operator for confirmation, unless `yes`; end the process if the answer is no or there is no terminal."""
    if yes:
        return
    if not typer.get_text_stream("stdin").isatty():
        raise fail("cannot ask for confirmation without a terminal: use --yes", Exit.WRONG_USAGE)
    if not typer.confirm(question):
        raise typer.Exit(Exit.NO)
