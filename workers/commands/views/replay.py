"""Terminal output of rewinds, skips and reemissions."""

from datetime import timedelta

from rich.text import Text

from infra.terminal import console, create_table
from workers.commands.views.server_parts import show_part_results, show_parts, show_resumed
from workers.commands.views.styles import GOOD, WARN, format_count, how_to_continue
from workers.ledger.model import WorkerName
from workers.ops.operations import OngoingOperation
from workers.ops.replay import reemit_plan
from workers.ops.replay.reemit_rows import RowFilter
from workers.ops.replay.rewind_plan import RewindPlan
from workers.ops.replay.skip import SkipPlan

__all__ = [
    "show_reemit_plan",
    "show_reemit_result",
    "show_rewind_plan",
    "show_rewind_result",
    "show_skip_plan",
    "show_skip_result",
]


def show_rewind_plan(plan: RewindPlan) -> None:
    """Show the plan of a rewind."""
    out = console()
    if not plan.moves:
        out.print("Nothing to set: the group is already at or before the target.")
        return
    heads = ["partition", "from", "to", "published again", "first answers", "decided"]
    rows = [(str(each.partition), *(f"{number:,}" for number in each[1:])) for each in plan.moves]
    if plan.server_of:
        rows = [(*row, plan.server_of[each.partition]) for row, each in zip(rows, plan.moves, strict=True)]
    out.print(create_table([*heads, *["server"] * bool(plan.server_of)], rows, ",".join(heads)))
    again, answers = sum(each.republished for each in plan.moves), sum(each.first_answers for each in plan.moves)
    if again:
        text = (
            f"{format_count(answers, 'record')} with a first answer: published again unchanged."
            f" {again - answers:,} others: repeats are answered as repeats again; dead letters are written again, or"
            " decided if this version can; transaction markers"
        )
        out.print(Text(text), soft_wrap=True)
    if newly_decided := sum(each.newly_decided for each in plan.moves):
        text = "not in the ledger's database, so decided as new"
        out.print(Text.assemble((f"{format_count(newly_decided, 'record')} ", WARN), text), soft_wrap=True)
    if plan.records:
        out.print(
            f"{format_count(plan.records, 'record')} to read again: about {timedelta(seconds=round(plan.seconds))}"
        )
    for member in plan.members:
        out.print(Text.assemble(("member of the group: ", WARN), member))


def show_rewind_result(done: OngoingOperation, worker: WorkerName) -> None:
    """Show the result of a rewind."""
    out = console()
    if done.stopped:
        out.print(Text(f"stopped before anything was set: operation {done.number}", style=WARN))
        return
    count = format_count(len(done.result["moves"]), "partition")
    out.print(Text(f"{count} set: operation {done.number}", style=GOOD))
    out.print(f"Start the workers (inmail worker {worker.value}), then check inmail lag.")
    out.print(
        f"To undo, before the workers have reread everything: inmail replay rewind {worker.value} --undo {done.number}"
    )


def show_skip_plan(plan: SkipPlan) -> None:
    """Show what skipping records would lose."""
    out = console()
    if not plan.lanes:
        out.print("Nothing to skip: no lane lacks records before the oldest one that is left, or before that offset.")
        return
    heads = ["partition", "from", "to", "gone from Kafka", "still in Kafka", "answered before"]
    rows = [(str(each.partition), *(f"{number:,}" for number in each[1:])) for each in plan.lanes]
    if plan.server_of:
        rows = [(*row, plan.server_of[each.partition]) for row, each in zip(rows, plan.lanes, strict=True)]
    out.print(create_table([*heads, *["server"] * bool(plan.server_of)], rows, ",".join(heads)))
    total = sum(each.target - each.stored for each in plan.lanes)
    text = "will never be in the ledger's database. Markers of transactions count as records here."
    out.print(Text.assemble((f"Up to {format_count(total, 'record')} ", WARN), text), soft_wrap=True)
    if plan.worker is WorkerName.EXPIRY:
        out.print("They are ticks: the next one books what has ended by then, and no credit is lost.")
        return
    if answered := sum(each.answered for each in plan.lanes):
        text = (
            "answered before: the credits that they moved, balances do not show; a request of theirs that is sent again"
            " is decided again, and charged again."
        )
        out.print(Text.assemble((f"Up to {answered:,} of them were ", WARN), text), soft_wrap=True)
    if total > answered:
        out.print(f"Nobody has answered the other {total - answered:,}: their senders wait.", soft_wrap=True)
    if left := sum(each.left for each in plan.lanes):
        text = "still in Kafka: `inmail replay rewind` would have them decided."
        out.print(Text.assemble((f"{left:,} of them are ", WARN), text), soft_wrap=True)


def show_skip_result(done: OngoingOperation) -> None:
    """Show that lanes go on."""
    count = format_count(done.result["lanes"], "lane")
    console().print(Text(f"{count} moved: operation {done.number}; see inmail lag", style=GOOD))


def show_reemit_plan(plan: reemit_plan.ReemitPlan) -> None:
    """Show the plan of a reemission."""
    out = console()
    show_resumed(plan.resumes, plan.sent_before, "events")
    show_parts(plan.servers, "events", lambda part: part.count)
    if not plan.count:
        out.print("Nothing to send.")
        return
    rows = [(topic, plan.to or topic, f"{count:,}") for topic, count in sorted(plan.events.items())]
    out.print(create_table(["topic", "sent to", "events"], rows, "events"))
    time = timedelta(seconds=round(plan.seconds))
    out.print(f"{format_count(plan.count, 'event')} to send, at {plan.rate:,g} a second: {time}")
    out.print("Not included: answers to repeats, and dead letters.")


def show_reemit_result(done: OngoingOperation, plan: reemit_plan.ReemitPlan, selection: RowFilter) -> None:
    """Show the result of a reemission."""
    out = console()
    result = done.result
    out.print(Text(f"{format_count(result['sent'], 'event')} sent: operation {done.number}", style=GOOD))
    show_part_results(result, "event")
    if done.stopped:
        left = plan.count - result["sent"] - result["refused"]
        same = how_to_continue({"--after": selection.after, "--before": selection.before})
        out.print(Text.assemble((f"{format_count(left, 'event')} left: ", WARN), same), soft_wrap=True)
