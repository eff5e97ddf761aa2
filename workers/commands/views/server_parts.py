"""Terminal output of runs over several servers: what each has to do, and what came of it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rich.text import Text

from infra.shards import number_ranges
from infra.terminal import console, show_table
from workers.commands.views.styles import BAD, DIM, WARN, format_count
from workers.ops.books.shards import server_name
from workers.ops.replay.server_parts import PartPlan, ServerParts

__all__ = ["show_part_results", "show_parts", "show_resumed"]

Plan = TypeVar("Plan", bound=PartPlan)


def show_resumed(operation: int | None, sent_before: int, what: str) -> None:
    """Show which operation a run goes on with, if any."""
    if operation is not None:
        text = f"continues after the {sent_before:,} {what} already sent (--anew starts over)"
        console().print(Text.assemble((f"operation {operation} is unfinished: ", WARN), text), soft_wrap=True)


def show_parts(servers: ServerParts[Plan] | None, what: str, count: Callable[[Plan], int]) -> None:
    """Show how much each of several servers has to do; nothing where there is one."""
    if servers is None:
        return
    rows: list[Sequence[Text | str]] = [
        (
            part.name,
            number_ranges(part.holdings.numbers),
            f"finished by operation {servers.resumes}" if part.plan is None else f"{count(part.plan):,}",
        )
        for part in servers.parts
    ]
    rows += [(server_name(each.settings), "", Text("left out: does not answer", style=BAD)) for each in servers.silent]
    show_table(["server", "numbers", what], rows)


def show_part_results(result: dict[str, Any], what: str) -> None:
    """Show what came of each of several servers' parts, and what Kafka refused of all."""
    out = console()
    for entry in result.get("servers", ()):
        text = format_count(entry.get("sent", 0), what)
        if refused := entry.get("refused"):
            text += f", {refused:,} refused"
        if not entry["finished"]:
            text += ", not finished"
        out.print(Text(f"  {entry['server']}: {text}", style=DIM if entry["finished"] else WARN), soft_wrap=True)
    for each in (named for of in (result, *result.get("servers", ())) for named in of.get("first_refused", ())):
        out.print(Text.assemble(("not sent: ", BAD), f"{each['account']}: {each['why']}"), soft_wrap=True)
    if result["refused"]:
        out.print(Text(f"{format_count(result['refused'], what)} refused by Kafka", style=BAD))
