"""How plans of topics, and what was published to them, look on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from infra.terminal import console, table
from workers.commands.views.styles import BAD, GOOD, WARN
from workers.ops.topics.plan import TopicChange
from workers.ops.topics.promises import BrokenPromise
from workers.ops.topics.publish import PublishReport

__all__ = ["show_broken_promises", "show_changes", "show_published"]

_MANY_FAILURES = 20


def show_changes(changes: list[TopicChange]) -> None:
    """Show a plan of topics."""
    if not changes:
        console().print(Text("Topics and groups are as they should be.", style=GOOD))
        return
    console().print(table(["step", "topic", "what"], [(c.kind, c.topic, c.text) for c in changes]))


def show_broken_promises(broken: Sequence[BrokenPromise]) -> None:
    """Show which settings of topics break a promise, and what to do; settings that are alike in several topics once."""
    out = console()
    topics: dict[tuple[str, ...], list[str]] = {}
    for each in broken:
        topics.setdefault(tuple(each)[1:], []).append(each.topic)
    for (setting, found, promise, remedy), names in topics.items():
        told = f" is {found} on {', '.join(names)}. The promise: {promise}. To do: {remedy}."
        out.print(Text.assemble(("warning ", WARN), (setting, "bold"), told), soft_wrap=True)


def show_published(published: PublishReport, out: Console) -> None:
    """Show what came of publishing; the lines that failed go to the given console."""
    rows = sorted(published.records.items())
    if rows:
        console().print(table(["topic", "records"], [(topic, f"{count:,}") for topic, count in rows], "records"))
    else:
        console().print("Nothing was published.")
    for number, reason in published.failures[:_MANY_FAILURES]:
        out.print(Text.assemble((f"line {number}: ", BAD), reason), soft_wrap=True)
    if (more := len(published.failures) - _MANY_FAILURES) > 0:
        out.print(f"... and {more:,} more lines")
