"""Terminal output of the servers of the books, and of plans and moves between them."""

import asyncio
from collections.abc import Callable

from rich.text import Text

from infra.local.progress import Progress
from infra.shards import number_ranges
from infra.terminal import console, show_table
from workers.commands.views.styles import BAD, GOOD, WARN, format_count
from workers.ops.operations import OngoingOperation
from workers.ops.shards.add import AddPlan
from workers.ops.shards.move import MoveStep
from workers.ops.shards.move_plan import MoveKind, MovePlan
from workers.ops.shards.overview import ShardsOverview, ShardStanding

__all__ = [
    "MoveProgress",
    "show_add_plan",
    "show_add_result",
    "show_move_plan",
    "show_move_result",
    "show_shards",
]

_WORDS = {
    MoveKind.MOVE: "move",
    MoveKind.DELETE: "is there; delete what is left",
    MoveKind.TAKE_BACK: "give up the move away",
}


def show_shards(found: ShardsOverview) -> None:
    """Show each server with its numbers; what is wrong comes first."""
    out = console()
    for number, addresses in found.claimed_twice.items():
        text = f"number {number} is claimed by {' and '.join(addresses)}: nobody works it"
        out.print(Text(text, style=BAD), soft_wrap=True)
    if found.unheld:
        numbers = number_ranges(found.unheld)
        text = (
            f"no server holds {numbers}: nobody works {'it' if len(found.unheld) == 1 else 'them'}"
            if found.is_complete
            else f"no server that answers holds {numbers}"
        )
        out.print(Text(text, style=BAD if found.is_complete else WARN), soft_wrap=True)
    for each in found.servers:
        if each.problem is not None:
            out.print(Text(each.problem, style=BAD), soft_wrap=True)
    rows = [
        (
            "" if each.server is None else str(each.server.shard.ordinal),
            each.address,
            Text("does not answer", style=BAD) if each.server is None else number_ranges(each.held) or "none",
            _under_way(each),
        )
        for each in found.servers
    ]
    show_table(["server", "address", "holds", "moves under way"], rows, "server")


def _under_way(standing: ShardStanding) -> str:
    return ", ".join(
        f"{each.number} {each.state.value}{'' if each.other is None else f' ({each.other})'}"
        for each in standing.under_way
    )


def show_add_plan(plan: AddPlan) -> None:
    """Show what preparing a server would do."""
    console().print(
        f"{plan.target.address} becomes server {plan.ordinal} of the books. It holds no number at first; keys of rows"
        f" that it makes begin at {plan.summary()['first_key']:,}.",
        soft_wrap=True,
    )


def show_add_result(done: OngoingOperation) -> None:
    """Show that a server is prepared, and what comes next."""
    out = console()
    out.print(Text(f"prepared as server {done.result['ordinal']}: operation {done.number}", style=GOOD))
    out.print(
        "Add it to INMAIL_DATABASE_SHARDS of every tool, the read API and the console; start workers with its URL as"
        " INMAIL_DATABASE_URL; then inmail shards move.",
        soft_wrap=True,
    )


def show_move_plan(plan: MovePlan, *, keep: bool) -> None:
    """Show what moving numbers would do."""
    out = console()
    if plan.there:
        out.print(f"On {plan.target.name} already: {number_ranges(plan.there)}")
    if not plan.moves:
        out.print("Nothing to move.")
        return
    heads = ["number", "to be done", "accounts", "journal rows", "other server"]
    rows = [
        (
            str(each.number),
            _WORDS[each.kind] + (", begun before" if each.begun else ""),
            f"{each.accounts:,}",
            f"{each.rows:,}",
            "not listed" if each.other is None else each.other.name,
        )
        for each in plan.moves
    ]
    show_table(heads, rows, "number,accounts,journal rows")
    left = "Its rows stay where they were (--keep)." if keep else "Then its rows are deleted where they were."
    out.print(
        f"To {plan.target.name}. The lanes of a number pause while its rows are copied; the workers of both servers"
        f" join their groups again. {left}",
        soft_wrap=True,
    )


def show_move_result(done: OngoingOperation, plan: MovePlan) -> None:
    """Show the result of moving numbers."""
    moved = done.result["moved"]
    text = f"{number_ranges(moved) or 'none'} on {plan.target.name}: operation {done.number}"
    if done.stopped:
        console().print(Text(f"stopped: {text}; the same command goes on", style=WARN), soft_wrap=True)
        return
    console().print(Text(f"{text}, {format_count(done.result['rows'], 'row')} copied", style=GOOD), soft_wrap=True)
    if pauses := done.result["pauses"]:
        told = ", ".join(f"{number}: {seconds:g} s" for number, seconds in pauses.items())
        console().print(f"lanes paused, by number: {told}", soft_wrap=True)


class MoveProgress:
    """Says at which step a move is, and how far: a line for each step, a moving one for rows and accounts."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._number = 0
        self._hundredths = 0

    def step(self, number: int, step: MoveStep) -> None:
        """Tell of a step."""
        self._number, self._hundredths = number, 0
        self._tell(f"number {number}: {step.value}")

    def rows(self, done: int, total: int) -> None:
        """Tell of rows that were copied, a hundred times at most."""
        self._advance(done, total, "rows copied")

    def purged(self, done: int, total: int) -> None:
        """Tell of accounts whose rows were deleted, a hundred times at most."""
        self._advance(done, total, "accounts deleted")

    async def tell_stop(self, stop: asyncio.Event) -> None:
        """Wait until the operator stops the move, and say what that does."""
        await stop.wait()
        self._tell(f"stops before the lanes of number {self._number} do, or after this number where they have stopped")

    def _advance(self, done: int, total: int, what: str) -> None:
        hundredths = done * 100 // max(total, 1)
        if hundredths > self._hundredths:
            self._hundredths = hundredths
            self._tell(Progress(f"number {self._number}: {done:,} of {total:,} {what}", hundredths, 100))
