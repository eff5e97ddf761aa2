"""The command `inmail`: every worker, and every question an operator asks. Each command calls one function."""

from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from uuid import UUID

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from infra.migrate import Migrated, migrate
from infra.postgres import connect_database
from infra.settings import Settings
from infra.shutdown import stop_requested, stop_with_parent
from infra.terminal import console, error_console
from workers.commands.books import audit_command, balance, statement
from workers.commands.clock import clock
from workers.commands.console import console as console_command
from workers.commands.dead_letters import dead_letters
from workers.commands.lag import lag
from workers.commands.metrics import metrics
from workers.commands.operations import operations
from workers.commands.options import JsonOption, YesOption, confirm, write_json
from workers.commands.replay import replay
from workers.commands.running import Exit, ask, work
from workers.commands.simulate import simulate
from workers.commands.trace import trace
from workers.commands.views.results import show_result
from workers.commands.views.topics import show_broken_promises, show_changes, show_published
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.jobs.ticker import run_ticker
from workers.lane.time_order import Ends
from workers.lane.worker import run_worker
from workers.ledger.plans import load_catalogue
from workers.local.command import demo, up
from workers.ops.topics.plan import apply_topics, plan_topics
from workers.ops.topics.promises import check_topics
from workers.ops.topics.publish import PublishReport, PublishTime, publish
from workers.ops.topics.results import in_order, read_results

__all__ = ["app", "main"]

FUNCTIONS = Path(__file__).parent / "ledger" / "sql"

_HELP = """Decides, exactly once and provably, whether an InMail may be sent and what it costs.

Settings are read from INMAIL_* variables, first of all INMAIL_KAFKA_BOOTSTRAP_SERVERS and INMAIL_DATABASE_URL.
"""
_EXIT_CODES = """Exit codes:

 0 done

 1 the answer is no: the audit found something, an account or request is unknown, a line could not be published, the \
demo came out otherwise than told

 2 wrong usage or setting

 3 Kafka or Postgres cannot be reached, refused, or is not set up; the local ones could not start, or one ended

 70 a broken invariant, a worker that did not get on, found too much that it cannot decide, or could not end in order
"""

app = typer.Typer(
    help=_HELP, epilog=_EXIT_CODES, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)
topics = typer.Typer(help="Topics and groups as they should be.", no_args_is_help=True)
app.add_typer(topics, name="topics")
app.add_typer(clock, name="clock")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(operations, name="operations")
app.add_typer(replay, name="replay")
app.command("console")(console_command)
app.command()(demo)
app.command()(simulate)
app.command()(up)
app.command()(balance)
app.command()(statement)
app.command()(trace)
app.command()(lag)
app.command("audit")(audit_command)
app.command()(metrics)


class ProcessName(StrEnum):
    """The processes of the system."""

    SEND = "send"
    BILLING = "billing"
    EXPIRY = "expiry"
    TICKER = "ticker"


def main() -> None:
    """Run the command line."""
    app()


@app.command("migrate")
def migrate_command() -> None:
    """Bring the database to this version: missing migrations, and all functions anew."""

    async def run(settings: Settings) -> Migrated:
        connection = await connect_database(settings, patient=True)  # an index of a large journal takes minutes
        try:
            return await migrate(connection, [FUNCTIONS])
        finally:
            await connection.close()

    done = ask(run)
    for name in done.applied:
        console().print(f"applied {name}")
    for notice in done.notices:
        console().print(notice)
    console().print(f"{len(done.applied)} migrations applied, {done.functions} function files replaced")


@topics.command("plan")
def topics_plan(*, json: JsonOption = False) -> None:
    """Say what `apply` would do, and which settings break a promise."""
    broken = ask(check_topics)
    if not json:
        show_broken_promises(broken)
    changes = ask(plan_topics)
    if json:
        write_json({"changes": changes, "broken_promises": [each._asdict() for each in broken]})
    else:
        show_changes(changes)


@topics.command("apply")
def topics_apply(
    *,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Create and set what differs, and start groups that have no offset at the oldest record."""
    changes = ask(plan_topics)
    if not json:
        show_changes(changes)
    if changes:
        confirm(f"Carry out these {len(changes)} steps?", yes=yes)
        ask(lambda settings: apply_topics(settings, changes))
    if json:
        write_json(changes)
    elif changes:
        console().print(f"{len(changes)} steps done")


@app.command()
def worker(
    name: Annotated[ProcessName, typer.Argument(help="Which one.")],
    *,
    with_parent: Annotated[bool, typer.Option("--stop-with-parent", hidden=True)] = False,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C. Any number of each may run; they share the partitions."""

    async def run(settings: Settings) -> None:
        stop = stop_requested()
        if with_parent:
            stop_with_parent(stop)
        catalogue = load_catalogue(settings.plans_file)
        match name:
            case ProcessName.SEND:
                await run_worker(SendJob(catalogue), settings, stop)
            case ProcessName.BILLING:
                await run_worker(BillingJob(catalogue), settings, stop)
            case ProcessName.EXPIRY:
                async with aclosing(Ends(settings)) as ends:
                    await run_worker(ExpiryJob(ends, catalogue, settings), settings, stop)
            case ProcessName.TICKER:
                await run_ticker(settings, stop)

    work(run)


@app.command("publish")
def publish_command(
    files: Annotated[
        list[typer.FileBinaryRead], typer.Argument(metavar="FILE...", help="NDJSON; - is standard input.")
    ],
    topic: Annotated[str | None, typer.Option(help="Where events of unknown types go.")] = None,
    record_time: Annotated[
        PublishTime, typer.Option(help="The record's time: now, or that of the event (on topics with CreateTime).")
    ] = PublishTime.NOW,
) -> None:
    """Publish files: on each line a CloudEvent, or {"record": {topic, key, timestamp, value, headers}}."""
    failed = False
    for file in files:
        published = _publish_with_progress(file, topic, record_time)
        if len(files) > 1:
            console().print(f"{file.name}:")
        show_published(published, error_console())
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

        return ask(lambda s: publish(s, file, topic=topic, record_time=record_time, progress=progress))


@app.command("results")
def results_command(  # noqa: PLR0913 - one parameter an option
    *,
    account: Annotated[str | None, typer.Option(help="Only of this account.")] = None,
    request: Annotated[UUID | None, typer.Option(help="Only what answers this request or was caused by it.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    from_end: Annotated[bool, typer.Option("--from-end", help="Pass over what is there; follows.")] = False,
    letters: Annotated[bool, typer.Option("--dead-letters", help="Also the dead letters.")] = False,
    ticks: Annotated[bool, typer.Option("--ticks", help="Also the ticks that booked nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Write each event as it is, one on a line.")] = False,
) -> None:
    """Show what the workers answered, as downstream services read it."""
    out = console()
    following = follow or from_end
    selection: dict[str, Any] = {"account": account, "request": request, "dead_letters": letters, "empty_ticks": ticks}

    async def run(settings: Settings) -> None:
        results = read_results(settings, **selection, follow=following, from_end=from_end)
        async with aclosing(results if following or json else in_order(results)) as ordered:
            async for result in ordered:
                typer.echo(result.value) if json else show_result(result, out)

    ask(run, following=following)


if __name__ == "__main__":
    main()
