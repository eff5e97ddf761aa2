"""How a check-up looks on a terminal: a line for each thing, and a verdict."""

from typing import Final

from rich.text import Text

from infra.terminal import console
from workers.commands.views.styles import BAD, DIM, GOOD, WARN
from workers.ops.doctor import CheckResult, CheckupReport, Grade

__all__ = ["result_line", "show_verdict"]

_STYLES: Final = {Grade.OK: GOOD, Grade.WARNING: WARN, Grade.WRONG: BAD}


def result_line(result: CheckResult) -> Text:
    """Return the line of one result."""
    line = Text.assemble((f"{result.grade:<8}", _STYLES[result.grade]), f"{result.area}: ")
    line.append_text(Text.assemble((result.subject, "bold"), f": {result.text}"))
    if result.do:
        line.append_text(Text.assemble((". To do: ", DIM), result.do))
    return line


def show_verdict(report: CheckupReport) -> None:
    """Show what all results come to."""
    counts = {grade: sum(each.grade is grade for each in report.results) for grade in Grade}
    text = {
        Grade.OK: "Everything is as it has to be.",
        Grade.WARNING: "Nothing is wrong; look at the warnings.",
        Grade.WRONG: "Something is wrong: see above.",
    }[report.grade]
    told = ", ".join(f"{count} {grade}" for grade, count in counts.items() if count)
    console().print(Text.assemble((text, _STYLES[report.grade]), f" ({told})"))
