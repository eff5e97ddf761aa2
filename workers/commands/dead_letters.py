"""The commands that list, show and redrive dead letters."""

import re
from datetime import datetime
from typing import Annotated, Final

import typer

from infra.settings import Settings
from infra.shutdown import create_stop_event
from infra.terminal import error_console, show_progress
from schemas.catalogue import INPUT_TOPICS
from schemas.dead_letters import DeadLetterReason
from workers.commands.options import (
    MAX_INT64,
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    confirm,
    instant_option,
    require_operator,
    write_json,
    write_planned,
)
from workers.commands.running import Exit, fail, run_command, tell_silent_servers
from workers.commands.views.dead_letters import (
    show_dead_letter,
    show_dead_letter_counts,
    show_dead_letters,
    show_redrive_plan,
    show_redrive_result,
)
from workers.ops.dead_letters import report
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive import redrive
from workers.ops.dead_letters.redrive_plan import RATES, RedriveOptions, RedrivePlan, plan_redrive
from workers.ops.operations import OngoingOperation, Operator

__all__ = ["dead_letters"]

dead_letters = typer.Typer(no_args_is_help=True, add_completion=False)

_PLACE: Final = re.compile(r"(\d{1,9})(?:/(\d{1,18}))?", re.ASCII)

_ReasonFilter = Annotated[DeadLetterReason | None, typer.Option(help="Only dead letters with this reason.")]
_TopicFilter = Annotated[str | None, typer.Option(help="Only dead letters from this input topic.")]
_AccountFilter = Annotated[str | None, typer.Option(help="Only dead letters of this account.")]
_TypeFilter = Annotated[str | None, typer.Option("--type", help="Only messages that declare this event type.")]
_AfterFilter = Annotated[datetime | None, instant_option(help="Only dead-lettered at or after this time.")]
_BeforeFilter = Annotated[
    datetime | None,
    instant_option(help="Only dead-lettered before this time."),
]
_AtFilter = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="PARTITION[/OFFSET]",
        help="Only dead letters of this partition, or the one at PARTITION/OFFSET, its place as listed.",
    ),
]


@dead_letters.command("list")
def list_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    reason: _ReasonFilter = None,
    topic: _TopicFilter = None,
    account: _AccountFilter = None,
    type_: _TypeFilter = None,
    after: _AfterFilter = None,
    before: _BeforeFilter = None,
    at: _AtFilter = None,
    operation: Annotated[
        int | None, typer.Option(min=1, max=MAX_INT64, help="Only messages that this operation sent back.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, max=MAX_INT64, help="Maximum number of dead letters, newest first.")] = 50,
    *,
    count: Annotated[bool, typer.Option("--count", help="Show counts by topic and reason only.")] = False,
    json: JsonOption = False,
) -> None:
    """List dead letters, newest first, with the history of each."""
    selection = _selection(reason, topic, account, type_, after, before, at)
    if count:
        counts = run_command(lambda settings: report.count_dead_letters(settings, selection, operation))
        rows = [(*key, number) for key, number in sorted(counts.items())]
        names = ("topic", "reason", "letters")
        write_json([dict(zip(names, row, strict=True)) for row in rows]) if json else show_dead_letter_counts(rows)
        return
    found = run_command(lambda settings: report.report_dead_letters(settings, selection, last, operation))
    write_json(found.summary()) if json else show_dead_letters(found)
    _end_if_incomplete(found)


@dead_letters.command("show")
def show_command(
    place: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="The dead letter's place, as listed.")],
    *,
    json: JsonOption = False,
) -> None:
    """Show one dead letter: the message as read, and its history."""
    partition, offset = _place(place, "PARTITION/OFFSET")
    if partition is None or offset is None:
        raise typer.BadParameter("expected PARTITION/OFFSET, like 3/17", param_hint="PARTITION/OFFSET")
    found = run_command(lambda settings: report.report_dead_letter(settings, partition, offset))
    write_json(found.summary()[0]) if json else show_dead_letter(*found.letters[0])
    _end_if_incomplete(found)


@dead_letters.command("redrive")
def redrive_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    reason: _ReasonFilter = None,
    topic: _TopicFilter = None,
    account: _AccountFilter = None,
    type_: _TypeFilter = None,
    after: _AfterFilter = None,
    before: _BeforeFilter = None,
    at: _AtFilter = None,
    rate: Annotated[
        float, typer.Option(min=RATES[0], max=RATES[1], help="Maximum rate, in messages per second.")
    ] = 100,
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_INT64, help="Maximum number of messages.")] = None,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    again: Annotated[bool, typer.Option("--again", help="Include messages already sent back or answered.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Include messages that would fail again.")] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Send messages unchanged to the partitions they came from, to be decided as of now.

    A request that was answered before gets its first answer again and moves no credits. Ctrl-C stops between two
    messages; the same command continues there, but with --again it begins anew.
    """
    selection = _selection(reason, topic, account, type_, after, before, at)
    options = RedriveOptions(rate, limit, again, anyway)
    person = None if dry_run else require_operator(by, because)
    plan = run_command(lambda settings: plan_redrive(settings, selection, options))
    if not json:
        show_redrive_plan(plan)
    silent = tell_silent_servers(plan.silent)
    if person is None or not plan.count:
        if json:
            write_planned(plan)
        raise typer.Exit(silent)
    confirm(f"Send {plan.count:,} messages back?", yes=yes)
    done = _redrive(selection, options, plan, person)
    if json:
        write_planned(plan, done)
    else:
        show_redrive_result(done, selection)
    if done.stopped:
        raise typer.Exit(Exit.INTERRUPTED)
    if done.result["sent"] < plan.count:
        raise typer.Exit(Exit.NO)
    raise typer.Exit(silent)


def _redrive(selection: LetterFilter, options: RedriveOptions, plan: RedrivePlan, person: Operator) -> OngoingOperation:
    with show_progress(plan.count, "messages", error_console()) as progress:

        async def run(settings: Settings) -> OngoingOperation:
            return await redrive(
                settings, selection, options, plan, who=person, stop=create_stop_event(), progress=progress
            )

        return run_command(run)


def _selection(  # noqa: PLR0913, PLR0917 - one parameter an option
    reason: DeadLetterReason | None,
    topic: str | None,
    account: str | None,
    type_: str | None,
    after: datetime | None,
    before: datetime | None,
    at: str | None,
) -> LetterFilter:
    if topic is not None and topic not in INPUT_TOPICS:
        raise typer.BadParameter(f"expected one of {', '.join(INPUT_TOPICS)}", param_hint="--topic")
    partition, offset = (None, None) if at is None else _place(at, "--at")
    return LetterFilter(reason, topic, account, type_, after, before, partition, offset)


def _place(text: str, hint: str) -> tuple[int, int | None]:
    if (place := _PLACE.fullmatch(text)) is None:
        raise typer.BadParameter("expected a partition, or PARTITION/OFFSET, like 3/17", param_hint=hint)
    return int(place[1]), int(place[2]) if place[2] else None


def _end_if_incomplete(found: report.DeadLetterReport) -> None:
    """End with the exit code of an answer that lacks what a server would tell, and say which server it is."""
    exit_ = tell_silent_servers(found.silent_servers)
    if found.silent is not None:
        text = f"the history of the dead letters is unknown, because Postgres cannot be queried: {found.silent}"
        raise fail(text, Exit.UNREACHABLE, "postgres")
    if exit_:
        raise typer.Exit(exit_)
