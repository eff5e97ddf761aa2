"""The command `publish`: publishes files, as a producer does."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from aiokafka.structs import RecordMetadata
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from infra.kafka.sender import Outgoing
from infra.terminal import console, error_console
from workers.commands.running import Exit, run_command
from workers.commands.views.topics import (
    record_json,
    show_failures,
    show_publish_report,
    show_published_record,
    write_failures,
)
from workers.ops.topics.publish import PublishReport, publish
from workers.ops.topics.record_lines import LineOptions, PublishTime

__all__ = ["publish_command"]

OnRecord = Callable[[int, Outgoing, RecordMetadata], None]


def publish_command(  # noqa: PLR0913 - one parameter an option
    files: Annotated[
        list[typer.FileBinaryRead], typer.Argument(metavar="FILE...", help="NDJSON files; - is standard input.")
    ],
    *,
    topic: Annotated[str | None, typer.Option(help="The topic of events with an unknown type.")] = None,
    record_time: Annotated[
        PublishTime, typer.Option(help="The record's time: now, or the event's time (on topics with CreateTime).")
    ] = PublishTime.NOW,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Publish also what does not fit the published schemas.")
    ] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Show counts by topic, not each record.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Write a JSON object for each record and each failure, one per line.")
    ] = False,
) -> None:
    """Publish files, and show the partition and offset of each record.

    Each line is a CloudEvent, or {"record": {topic, key, timestamp, value, headers}}. A line that no worker could
    decode is refused with the path of its fault; the other lines are published.
    """
    failed = False
    for file in files:
        if len(files) > 1 and not json:
            console().print(f"{file.name}:")
        how = LineOptions(topic, record_time, checked=not anyway)
        published = _publish_with_progress(file, how, _record_writer(summary=summary, json=json))
        if json:
            write_failures(published)
        else:
            if summary or not (published.records or published.failures):
                show_publish_report(published)
            show_failures(published, error_console(), anyway=anyway)
        failed = failed or bool(published.failures)
    if failed:
        raise typer.Exit(Exit.NO)


def _record_writer(*, summary: bool, json: bool) -> OnRecord | None:
    if json:
        return lambda line, outgoing, place: typer.echo(record_json(line, outgoing, place))
    return None if summary else show_published_record


def _publish_with_progress(file: BinaryIO, how: LineOptions, on_record: OnRecord | None) -> PublishReport:
    size = Path(file.name).stat().st_size if Path(file.name).is_file() else None
    err = error_console()
    columns = (TextColumn("{task.fields[lines]:,} lines"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal or on_record is not None) as bar:
        task = bar.add_task("publish", total=size, lines=0)

        def progress(so_far: PublishReport) -> None:
            bar.update(task, completed=so_far.bytes, lines=so_far.lines)

        return run_command(lambda s: publish(s, file, **how._asdict(), progress=progress, on_record=on_record))
