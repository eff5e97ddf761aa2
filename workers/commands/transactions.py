"""The commands that list transactions that hang in our topics, and end them."""

import typer

from infra.terminal import console
from workers.commands.options import (
    ActorOption,
    JsonOption,
    ReasonOption,
    YesOption,
    confirm,
    require_operator,
    write_json,
)
from workers.commands.running import run_command
from workers.ops.topics.hanging import describe_hanging, end_hanging, list_hanging, may_be_live, ours_of

__all__ = ["transactions"]

transactions = typer.Typer(no_args_is_help=True, add_completion=False)


@transactions.command("list")
def list_command(*, json: JsonOption = False) -> None:
    """List transactions that are open in our topics though no coordinator will end them.

    Brokers of 4.3 and 4.4 may leave some behind (docs/kafka-versions.md). Readers of committed records stop there.
    """
    hanging = run_command(list_hanging)
    if json:
        write_json([each._asdict() for each in hanging])
        return
    for each in hanging:
        console().print(describe_hanging(each), soft_wrap=True)
    if not hanging:
        console().print("No transaction hangs.")


@transactions.command("end")
def end_command(
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """End the transactions that hang in result topics and dead letters: as committed where the coordinator says so.

    All others end as aborted: publish their answers again with `inmail replay reemit`. Unless the coordinator says that
    it is complete, a transaction that was written to in the last 5 minutes may be live, and is left as it is. So is one
    in an input topic: its producer's owner ends it.
    """
    who = require_operator(by, because)
    listed = run_command(list_hanging)
    found = ours_of(listed)
    hanging = [each for each in found if not may_be_live(each)]
    if not json:
        for each in listed:
            if each not in found:
                console().print(f"left to its producer's owner: {describe_hanging(each)}", soft_wrap=True)
        for each in found:
            marker = "commit" if each.is_committed else "abort" if each in hanging else "left, as it may be live"
            console().print(f"{marker}: {describe_hanging(each)}", soft_wrap=True)
    result = {"committed": 0, "aborted": 0, "left": 0}
    if hanging:
        confirm(f"End these {len(hanging)} transactions?", yes=yes)
        result = run_command(lambda settings: end_hanging(settings, hanging, who)).result
    result |= {"left": result["left"] + len(found) - len(hanging)}
    if json:
        write_json(result)
    else:
        left = f", {result['left']} left: they may be live, or no longer hang" if result["left"] else ""
        console().print(f"{result['committed']} ended as committed, {result['aborted']} as aborted{left}")
