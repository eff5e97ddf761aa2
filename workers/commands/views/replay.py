"""How plans to replay, and what came of them, look on a terminal."""

from datetime import timedelta

from rich.text import Text

from infra.terminal import console, table
from workers.commands.views.styles import BAD, GOOD, WARN, count_of
from workers.ledger.model import WorkerName
from workers.ops.operations import OngoingOperation
from workers.ops.replay import reemit_plan
from workers.ops.replay.rewind_plan import RewindPlan

__all__ = ["show_reemit_plan", "show_reemitted", "show_rewind_plan", "show_rewound"]


def show_rewind_plan(plan: RewindPlan) -> None:
    """Show what a rewind would do."""
    out = console()
    if not plan.moves:
        out.print("Nothing to set: the group stands there, or before it, already.")
        return
    heads = ["partition", "from", "to", "published again", "first answers", "decided"]
    rows = [(str(each.partition), *(f"{number:,}" for number in each[1:])) for each in plan.moves]
    out.print(table(heads, rows, ",".join(heads)))
    again, answers = sum(each.republished for each in plan.moves), sum(each.first_answers for each in plan.moves)
    if again:
        text = (
            f"{count_of(answers, 'record')} with a first answer: published again as it was. {again - answers:,} others:"
            " repeats answered as repeats again; dead letters set aside again, or decided now if this version can;"
            " transactions' marks"
        )
        out.print(Text(text), soft_wrap=True)
    if anew := sum(each.newly_decided for each in plan.moves):
        text = "not in the books, so decided, for the first time as far as they know"
        out.print(Text.assemble((f"{count_of(anew, 'record')} ", WARN), text), soft_wrap=True)
    if plan.records:
        out.print(f"{count_of(plan.records, 'record')} to read again: about {timedelta(seconds=round(plan.seconds))}")
    for member in plan.members:
        out.print(Text.assemble(("member of the group: ", WARN), member))


def show_rewound(done: OngoingOperation, worker: WorkerName) -> None:
    """Show what a rewind did."""
    out = console()
    if done.stopped:
        out.print(Text(f"stopped before anything was set: operation {done.number}", style=WARN))
        return
    count = count_of(len(done.result["moves"]), "partition")
    out.print(Text(f"{count} set: operation {done.number}", style=GOOD))
    out.print(f"Start its workers (inmail worker {worker.value}), and see inmail lag.")
    out.print(f"Back, before they have read it again: inmail replay rewind {worker.value} --undo {done.number}")


def show_reemit_plan(plan: reemit_plan.ReemitPlan) -> None:
    """Show what a reemission would do."""
    out = console()
    if plan.resumes is not None:
        text = f"goes on behind the {plan.sent_before:,} that were sent (--anew begins again)"
        out.print(Text.assemble((f"operation {plan.resumes} was not finished: ", WARN), text), soft_wrap=True)
    if not plan.count:
        out.print("Nothing to send.")
        return
    rows = [(topic, plan.to or topic, f"{count:,}") for topic, count in sorted(plan.events.items())]
    out.print(table(["published to", "sent to", "events"], rows, "events"))
    time = timedelta(seconds=round(plan.seconds))
    out.print(f"{count_of(plan.count, 'event')} to send, at {plan.rate:,g} a second: {time}")
    out.print("Not among them: answers to repeats, and dead letters.")


def show_reemitted(done: OngoingOperation, plan: reemit_plan.ReemitPlan) -> None:
    """Show what a reemission did."""
    out = console()
    result = done.result
    out.print(Text(f"{count_of(result['sent'], 'event')} sent: operation {done.number}", style=GOOD))
    for each in result["first_refused"]:
        out.print(Text.assemble(("not sent: ", BAD), f"{each['account']}: {each['why']}"), soft_wrap=True)
    if result["refused"]:
        out.print(Text(f"{count_of(result['refused'], 'event')} refused by Kafka", style=BAD))
    if done.stopped:
        left = plan.count - result["sent"] - result["refused"]
        out.print(Text.assemble((f"{count_of(left, 'event')} left: ", WARN), "the same command goes on"))
