"""The command `publish`: publishes files, as a producer does."""

from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from infra.terminal import console, error_console
from workers.commands.running import Exit, run_command
from workers.commands.views.topics import show_publish_report
from workers.ops.topics.publish import PublishReport, PublishTime, publish

__all__ = ["publish_command"]


def publish_command(
    files: Annotated[
        list[typer.FileBinaryRead], typer.Argument(metavar="FILE...", help="NDJSON files; - is standard input.")
    ],
    topic: Annotated[str | None, typer.Option(help="The topic of events with an unknown type.")] = None,
    record_time: Annotated[
        PublishTime, typer.Option(help="The record's time: now, or the event's time (on topics with CreateTime).")
    ] = PublishTime.NOW,
) -> None:
    """Publish files. Each line is a CloudEvent, or {"record": {topic, key, timestamp, value, headers}}."""
    failed = False
    for file in files:
        published = _publish_with_progress(file, topic, record_time)
        if len(files) > 1:
            console().print(f"{file.name}:")
        show_publish_report(published, error_console())
        failed = failed or bool(published.failures)
    if failed:
        raise typer.Exit(Exit.NO)


def _publish_with_progress(file: BinaryIO, topic: str | None, record_time: PublishTime) -> PublishReport:
    size = Path(file.name).stat().st_size if Path(file.name).is_file() else None
    err = error_console()
    columns = (TextColumn("{task.fields[lines]:,} lines"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("publish", total=size, lines=0)

        def progress(so_far: PublishReport) -> None:
            bar.update(task, completed=so_far.bytes, lines=so_far.lines)

        return run_command(lambda s: publish(s, file, topic=topic, record_time=record_time, progress=progress))
