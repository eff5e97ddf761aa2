"""Terminal output of topic plans, setting conflicts and publishing."""

from collections.abc import Sequence

import typer
from aiokafka.structs import RecordMetadata
from pydantic_core import to_json
from rich.console import Console
from rich.text import Text

from infra.kafka.sender import Outgoing
from infra.terminal import console, show_table
from workers.commands.views.styles import BAD, GOOD, WARN
from workers.ops.dead_letters.letters import escape_unprintable
from workers.ops.topics.plan import TopicChange
from workers.ops.topics.promises import BrokenPromise
from workers.ops.topics.publish import PublishReport

__all__ = [
    "record_json",
    "show_broken_promises",
    "show_failures",
    "show_publish_report",
    "show_published_record",
    "show_topic_changes",
    "show_warnings",
    "write_failures",
]

_MAX_FAILURES = 20


def show_topic_changes(changes: list[TopicChange]) -> None:
    """Show the planned changes of topics and groups."""
    if not changes:
        console().print(Text("Topics and groups are up to date.", style=GOOD))
        return
    show_table(["step", "topic", "change"], [(c.kind, c.topic, c.text) for c in changes], flexible="change")


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


def show_published_record(line: int, outgoing: Outgoing, place: RecordMetadata) -> None:
    """Show where a line's record went."""
    key = "" if outgoing.key is None else f"  {escape_unprintable(outgoing.key.decode(errors='backslashreplace'))}"
    typer.echo(f"line {line}: {place.topic} {place.partition}/{place.offset}{key}")


def record_json(line: int, outgoing: Outgoing, place: RecordMetadata) -> bytes:
    """Return where a line's record went, as a JSON object."""
    key = None if outgoing.key is None else outgoing.key.decode(errors="backslashreplace")
    where = {"topic": place.topic, "partition": place.partition, "offset": place.offset}
    return to_json({"line": line, **where, "key": key})


def write_failures(published: PublishReport) -> None:
    """Write a JSON object for each line that was not published."""
    for number, reason in published.failures:
        typer.echo(to_json({"line": number, "error": reason}))


def show_publish_report(published: PublishReport) -> None:
    """Show the number of published records by topic."""
    rows = sorted(published.records.items())
    if rows:
        show_table(["topic", "records"], [(topic, f"{count:,}") for topic, count in rows], "records")
    else:
        console().print("Nothing was published.")


def show_failures(published: PublishReport, out: Console, *, anyway: bool) -> None:
    """Show the lines that were not published, and how to publish them all the same.

    Args:
        published: the report.
        out: the console of standard error.
        anyway: whether the lines were not checked, so that nothing else can be done.

    """
    for number, reason in published.failures[:_MAX_FAILURES]:
        out.print(Text.assemble((f"line {number}: ", BAD), reason), soft_wrap=True)
    if (more := len(published.failures) - _MAX_FAILURES) > 0:
        out.print(f"... and {more:,} more lines")
    if published.failures and not anyway:
        text = "These lines were not published. --anyway publishes also what does not fit the schemas."
        out.print(text, soft_wrap=True)
