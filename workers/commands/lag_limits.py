"""The limits of `inmail lag --fail-on`: by status, by unread records or by the age of the oldest one."""

import re
from dataclasses import dataclass

import typer

from workers.ops.lag import GroupLag, Status

__all__ = ["LagLimit", "parse_limit"]


@dataclass(frozen=True, slots=True)
class LagLimit:
    """One limit; exactly one of the three is set."""

    status: Status | None = None  # this one or a worse one
    records: int | None = None  # in one partition
    seconds: float | None = None

    def exceeded(self, group: GroupLag) -> bool:
        """Return whether a partition of a group, or the group itself, is at the limit or beyond it."""
        if self.status is not None:
            severities = [group.status.severity, *(each.status.severity for each in group.partitions)]
            return max(severities) >= self.status.severity
        if self.records is not None:
            return any(each.records >= self.records for each in group.partitions)
        assert self.seconds is not None  # noqa: S101 - the third of the three
        return group.seconds >= self.seconds


def parse_limit(text: str) -> LagLimit:
    """Return the limit that a text names: a status in any spelling, a number of records, or seconds like `60s`.

    Raises:
        typer.BadParameter: when the text names none.

    """
    if re.fullmatch(r"[1-9]\d{0,17}", text):
        return LagLimit(records=int(text))
    if (age := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", text)) is not None and float(age[1]) > 0:
        return LagLimit(seconds=float(age[1]))
    name = re.sub(r"[-_ ]+", " ", text).upper()
    if name in set(Status) - {Status.OK}:
        return LagLimit(status=Status(name))
    names = ", ".join(each.replace(" ", "_") for each in Status if each is not Status.OK)
    raise typer.BadParameter(
        f"expected a number of records, like 1000, an age in seconds, like 60s, or one of {names}; got {text!r}",
        param_hint="--fail-on",
    )
