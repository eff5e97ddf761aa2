"""The command `simulate`: generates a population's events, and writes or publishes them."""

import asyncio
from contextlib import nullcontext
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from time import monotonic
from typing import Annotated, BinaryIO

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from infra.settings import Settings
from infra.terminal import error_console
from workers.commands.options import instant_option
from workers.commands.running import Exit, run_command
from workers.commands.views.topics import show_failures, show_publish_report
from workers.ops.topics.publish import publish
from workers.ops.topics.record_lines import PublishTime
from workers.simulate.history import history_bounds, simulate_records
from workers.simulate.history_file import HistoryFile
from workers.simulate.population import Population, PopulationError

__all__ = ["simulate"]

_CHUNK_BYTES = 256 * 1024
_USUAL = Population()

_StartOption = Annotated[
    datetime,
    instant_option(help="The first instant of the history; default: 2030-01-01T00:00:00Z."),
]


def simulate(  # noqa: PLR0913, PLR0917 - one parameter an option
    accounts: Annotated[int, typer.Option(help="Number of accounts.")] = _USUAL.accounts,
    days: Annotated[float, typer.Option(help="Length of the history, in days.")] = _USUAL.days,
    seed: Annotated[int, typer.Option(help="The same seed and options give the same bytes.")] = _USUAL.seed,
    start: _StartOption = _USUAL.start,
    sends_per_day: Annotated[float, typer.Option(help="Sends per account, on average.")] = _USUAL.sends_per_day,
    hot: Annotated[float, typer.Option(help="Zipf exponent of the senders; 0: all send alike.")] = _USUAL.hot,
    connections: Annotated[float, typer.Option(help="Share of sends that are free.")] = _USUAL.connections,
    undeliverable: Annotated[float, typer.Option(help="Share of undeliverable sends.")] = _USUAL.undeliverable,
    responses: Annotated[float, typer.Option(help="Share of sends that are answered.")] = _USUAL.responses,
    annual: Annotated[float, typer.Option(help="Share of accounts with annual terms.")] = _USUAL.annual,
    duplicates: Annotated[float, typer.Option(help="Share of events that are repeated.")] = _USUAL.duplicates,
    conflicts: Annotated[float, typer.Option(help="Share of ids reused with another body.")] = _USUAL.conflicts,
    late: Annotated[float, typer.Option(help="Share of periods that arrive up to a day late.")] = _USUAL.late,
    out_of_order: Annotated[
        float, typer.Option(help="Share of periods and reports out of order.")
    ] = _USUAL.out_of_order,
    turbulence: Annotated[
        float,
        typer.Option(help="Factor for the number of promotions, cancels, plan changes, voids, erasures and similar."),
    ] = _USUAL.turbulence,
    tick_hours: Annotated[float, typer.Option(help="Hours between ticks; 0: none.")] = _USUAL.tick_hours,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write to; default: standard output.")
    ] = None,
    *,
    to_kafka: Annotated[bool, typer.Option("--publish", help="Publish to Kafka instead of writing.")] = False,
    record_time: Annotated[
        PublishTime,
        typer.Option(help="With --publish: the record's time, now or the event's time (on topics with CreateTime)."),
    ] = PublishTime.EVENT,
) -> None:
    """Generate accounts and their events, as NDJSON for `inmail publish`, or publish them to Kafka."""
    if to_kafka and output is not None:
        raise typer.BadParameter("either --output or --publish")
    try:
        population = Population(
            accounts=accounts, days=days, seed=seed, start=start, sends_per_day=sends_per_day, hot=hot,
            connections=connections, undeliverable=undeliverable, responses=responses, annual=annual,
            duplicates=duplicates, conflicts=conflicts, late=late, out_of_order=out_of_order, turbulence=turbulence,
            tick_hours=tick_hours,
        )  # fmt: skip
    except PopulationError as error:
        raise typer.BadParameter(str(error)) from None
    _run(population, output, record_time if to_kafka else None)


def _run(population: Population, output: Path | None, record_time: PublishTime | None) -> None:
    """Publish with a record time, or write without one; report the speed."""
    began = monotonic()
    history = HistoryFile(simulate_records(population), history_bounds(population)[0])
    to_terminal = record_time is None and output is None and typer.get_text_stream("stdout").isatty()
    failed = False
    with _progress(hidden=to_terminal) as bar:
        watch = _HistoryProgress(history, population, bar)
        if record_time is None:
            _write(history, output, watch)
        else:
            failed = _publish(history, record_time, watch)
    seconds = monotonic() - began
    error_console().print(f"{history.events:,} events in {seconds:.1f} s, {history.events / seconds:,.0f} a second")
    if failed:
        raise typer.Exit(Exit.NO)


def _progress(*, hidden: bool) -> Progress:
    err = error_console()
    columns = (TextColumn("{task.fields[events]:,} events"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=hidden or not err.is_terminal)


class _HistoryProgress:
    """Shows the progress through a history, in the history's time."""

    def __init__(self, history: HistoryFile, population: Population, bar: Progress) -> None:
        self._history = history
        self._bar = bar
        self._start, end = history_bounds(population)
        self._task = bar.add_task("simulate", total=end - self._start, events=0)

    def update(self) -> None:
        """Show the progress."""
        self._bar.update(self._task, completed=self._history.time - self._start, events=self._history.events)


def _publish(history: HistoryFile, record_time: PublishTime, watch: _HistoryProgress) -> bool:
    """Publish a history; return whether some records could not be published."""
    file = BufferedReader(history, _CHUNK_BYTES)
    published = run_command(lambda s: publish(s, file, record_time=record_time, progress=lambda _: watch.update()))
    show_publish_report(published)
    show_failures(published, error_console(), anyway=True)
    return bool(published.failures)


def _write(history: HistoryFile, output: Path | None, watch: _HistoryProgress) -> None:
    async def run(_: Settings) -> None:
        standard: BinaryIO = typer.get_binary_stream("stdout")
        with output.open("wb") if output else nullcontext(standard) as out:
            while chunk := history.read(_CHUNK_BYTES):
                out.write(chunk)
                watch.update()
                await asyncio.sleep(0)  # gives Ctrl-C a chance
            out.flush()

    run_command(run)
