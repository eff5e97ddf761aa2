"""Terminal output of topic plans, setting conflicts and publishing."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from infra.terminal import console, create_table
from workers.commands.views.styles import BAD, GOOD, WARN
from workers.ops.topics.plan import TopicChange
from workers.ops.topics.promises import BrokenPromise
from workers.ops.topics.publish import PublishReport

__all__ = ["show_broken_promises", "show_publish_report", "show_topic_changes", "show_warnings"]

_MAX_FAILURES = 20


def show_topic_changes(changes: list[TopicChange]) -> None:
    """Show the planned changes of topics and groups."""
    if not changes:
        console().print(Text("Topics and groups are up to date.", style=GOOD))
        return
    console().print(create_table(["step", "topic", "change"], [(c.kind, c.topic, c.text) for c in changes]))


def show_warnings(warnings: Sequence[str]) -> None:
    """Show what speaks against the cluster itself."""
    for each in warnings:
        console().print(Text.assemble(("warning ", WARN), each), soft_wrap=True)


def show_broken_promises(broken: Sequence[BrokenPromise]) -> None:
    """Show the settings that conflict with a guarantee, and what to do: once for each setting, with all its topics."""
    out = console()
    topics: dict[tuple[str, ...], list[str]] = {}
    for each in broken:
        topics.setdefault(tuple(each)[1:], []).append(each.topic)
    for (setting, found, promise, remedy), names in topics.items():
        text = f" is {found} on {', '.join(names)}. Guarantee: {promise}. What to do: {remedy}."
        out.print(Text.assemble(("warning ", WARN), (setting, "bold"), text), soft_wrap=True)


def show_publish_report(published: PublishReport, out: Console) -> None:
    """Show the number of published records; the lines that failed go to the given console."""
    rows = sorted(published.records.items())
    if rows:
        console().print(create_table(["topic", "records"], [(topic, f"{count:,}") for topic, count in rows], "records"))
    else:
        console().print("Nothing was published.")
    for number, reason in published.failures[:_MAX_FAILURES]:
        out.print(Text.assemble((f"line {number}: ", BAD), reason), soft_wrap=True)
    if (more := len(published.failures) - _MAX_FAILURES) > 0:
        out.print(f"... and {more:,} more lines")
