"""What a check-up finds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = ["CheckResult", "CheckupReport", "Grade", "ok", "warning", "wrong"]


class Grade(StrEnum):
    """How a thing stands."""

    OK = "ok"
    WARNING = "warning"  # a guarantee holds, and something may break it or could not be looked at
    WRONG = "wrong"  # a guarantee does not hold, or workers cannot work


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at."""

    area: str  # Kafka, Postgres, ...
    subject: str
    grade: Grade
    text: str  # how it is, in a sentence
    do: str = ""  # what to do, where there is something to do
    unreachable: bool = False  # a server did not answer, so that nothing behind it was looked at


@dataclass(frozen=True, slots=True)
class CheckupReport:
    """All that was looked at."""

    results: Sequence[CheckResult]

    @property
    def grade(self) -> Grade:
        """That of the worst result."""
        order = list(Grade)
        return max((each.grade for each in self.results), key=order.index, default=Grade.OK)

    @property
    def unreachable(self) -> bool:
        """Whether a server did not answer."""
        return any(each.unreachable for each in self.results)

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"grade": self.grade, "checks": [asdict(each) for each in self.results]}


def ok(area: str, subject: str, text: str) -> CheckResult:
    """Return a thing that is as it has to be."""
    return CheckResult(area, subject, Grade.OK, text)


def warning(area: str, subject: str, text: str, do: str = "") -> CheckResult:
    """Return a thing that may become wrong, or that could not be looked at."""
    return CheckResult(area, subject, Grade.WARNING, text, do)


def wrong(area: str, subject: str, text: str, do: str = "") -> CheckResult:
    """Return a thing that is not as it has to be."""
    return CheckResult(area, subject, Grade.WRONG, text, do)
