"""Options of several commands: JSON output, times, actor and reason."""

import getpass
import math
import re
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Protocol

import typer
from pydantic_core import to_json

from infra.clock import EPOCH, utc_now
from infra.output import writes_json
from schemas.envelope import ID_PATTERN
from workers.commands.running import Exit, fail
from workers.ops.operations import OngoingOperation, Operator

__all__ = [
    "MAX_INT32",
    "MAX_INT64",
    "ActorOption",
    "DryRunOption",
    "JsonOption",
    "PartitionsOption",
    "ReasonOption",
    "YesOption",
    "check_account_id",
    "check_finite",
    "check_since_1970",
    "confirm",
    "instant_option",
    "parse_instant",
    "require_operator",
    "write_json",
    "write_planned",
]

MAX_INT32: Final = 2**31 - 1  # of a partition, in Kafka and in Postgres
MAX_INT64: Final = 2**63 - 1  # of an offset, an operation's number, or a limit

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_RELATIVE: Final = re.compile(r"([+-])((?:\d{1,9}[smhdw])+)")
_EXPECTED: Final = (
    "expected a time with a zone, like 2026-01-31T09:30:00Z, a day (its start in UTC), or a time from now, like -2h or"
    " -1d12h"
)

JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
PartitionsOption = Annotated[
    list[int] | None, typer.Option(min=0, max=MAX_INT32, help="Only this partition; repeatable.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")]
ActorOption = Annotated[str | None, typer.Option(help="The operator's name, for the record; default: the user's name.")]
ReasonOption = Annotated[str | None, typer.Option(help="The reason, for the record. Required except for a dry run.")]


class _OperationPlan(Protocol):
    """What a command would do."""

    def summary(self) -> dict[str, Any]: ...


def write_json(answer: object) -> None:
    """Write an answer as JSON to standard output."""
    typer.echo(to_json(answer, indent=2, bytes_mode="base64"))


def write_planned(plan: _OperationPlan, done: OngoingOperation | None = None) -> None:
    """Write a plan as JSON, and the operation that carried it out, if one did."""
    told = {"plan": plan.summary()}
    write_json(told if done is None else {"operation": done.number, **told, "result": done.result})


def parse_instant(text: str | datetime) -> datetime:
    """Return the instant that a text names: `now`, a time from now (`-2h`, `+3d`), a day in UTC, or a time with a zone.

    Raises:
        typer.BadParameter: when the text names none.

    """
    if isinstance(text, datetime):  # an option's default
        return text
    try:
        if text == "now":
            return utc_now()
        if (relative := _RELATIVE.fullmatch(text)) is not None:
            parts = re.findall(r"(\d+)([smhdw])", relative[2])
            length = sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), timedelta())
            return utc_now() + (length if relative[1] == "+" else -length)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return instant.astimezone(UTC)
    except (ValueError, OverflowError):  # no time, or one outside the calendar
        raise typer.BadParameter(f"{_EXPECTED}; got {text!r}") from None
    raise typer.BadParameter(f"{_EXPECTED}; {text!r} has no zone")


def instant_option(*names: str, help: str, since_1970: bool = False) -> Any:  # noqa: A002, ANN401 - as in typer
    """Return the option for an instant, in any of the forms of `parse_instant`.

    Args:
        names: the option's names; without any, its parameter's.
        help: one sentence; the forms are added.
        since_1970: refuse what Kafka cannot represent.

    """
    return typer.Option(
        *names,
        parser=parse_instant,
        metavar="TIME",
        callback=check_since_1970 if since_1970 else None,
        show_default=False,
        help=f"{help} Like -2h, 2026-01-31 or 2026-01-31T09:30:00Z.",
    )


def check_account_id(account: str | None) -> str | None:
    """Return the account id if an account can have it: a filter by another one would find nothing, and look right.

    Raises:
        typer.BadParameter: when no account can have it.

    """
    if account is not None and re.fullmatch(ID_PATTERN, account) is None:
        raise typer.BadParameter(f"expected an account id of 1 to 128 visible ASCII characters, got {account!r}")
    return account


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
    if time is not None and time < EPOCH:
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
    """Ask the operator for confirmation, unless `yes`; end the process if the answer is no or there is nobody to ask.

    With --json nobody has been shown what the question is about.
    """
    if yes:
        return
    if writes_json():
        raise fail("cannot ask for confirmation with --json, which shows no plan before: use --yes", Exit.WRONG_USAGE)
    if not typer.get_text_stream("stdin").isatty():
        raise fail("cannot ask for confirmation without a terminal: use --yes", Exit.WRONG_USAGE)
    try:
        with redirect_stdout(sys.stderr):  # the answer goes to whatever file takes it, the question to the operator
            agreed = typer.confirm(question)
    except typer.Abort:
        raise typer.Exit(Exit.INTERRUPTED) from None
    if not agreed:
        raise typer.Exit(Exit.NO)
