"""How answers look on a terminal."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.text import Text

from workers.commands.terminal import console, instant, table
from workers.ops.audit import Audit
from workers.ops.dead_letters import DeadLetter, readable
from workers.ops.lag import GroupLag, PartitionLag
from workers.ops.publish import Published
from workers.ops.results import Result
from workers.ops.statement import Line, Statement
from workers.ops.topics import Change

__all__ = [
    "show_audit",
    "show_changes",
    "show_dead_letter",
    "show_dead_letters",
    "show_lag",
    "show_published",
    "show_result",
    "show_statement",
]

_GOOD, _BAD, _WARN, _DIM = "green", "bold red", "yellow", "dim"
_LOT_STYLES = {"available": _GOOD, "later": "cyan", "ended": _DIM, "spent": _DIM}
_MANY_FAILURES = 20


def show_changes(changes: list[Change]) -> None:
    """Show a plan of topics."""
    if not changes:
        console().print(Text("Topics and groups are as they should be.", style=_GOOD))
        return
    console().print(table(["step", "topic", "what"], [(c.kind, c.topic, c.text) for c in changes]))


def show_published(published: Published, out: Console) -> None:
    """Show what came of publishing; the lines that failed go to the given console."""
    rows = sorted(published.records.items())
    if rows:
        console().print(table(["topic", "records"], [(topic, f"{count:,}") for topic, count in rows], "records"))
    else:
        console().print("Nothing was published.")
    for number, reason in published.failures[:_MANY_FAILURES]:
        out.print(Text.assemble((f"line {number}: ", _BAD), reason), soft_wrap=True)
    if (more := len(published.failures) - _MANY_FAILURES) > 0:
        out.print(f"... and {more:,} more lines")


def show_result(result: Result, out: Console) -> None:
    """Show one result as one line."""
    data = result.data
    name = result.event["type"].removeprefix("inmail.").removesuffix(".v1")
    head: list[str | tuple[str, str]] = [
        (instant(result.event["time"]).ljust(25), _DIM),
        f"{result.account_id or f'partition {result.partition}':<20} ",
        f"{name:<22} ",
    ]
    tail: list[str | tuple[str, str]]
    if name == "tick.decided":
        tail = [f"{_count(data['lots'], 'lot')}, {_count(data['credits'], 'credit')}, up to {instant(data['horizon'])}"]
    elif name == "message.dead-lettered":
        origin = data["origin"]
        place = f"{origin['topic']} {origin['partition']}/{origin['offset']}"
        tail = [(f"{data['reason']:<22} ", _BAD), f"{place}: {data['error']}"]
    else:
        tail = _movement(data)
    repeat = [("  repeat", _WARN)] if data.get("repeat") else []
    out.print(Text.assemble(*head, *tail, *repeat), soft_wrap=True)


def _movement(data: Mapping[str, Any]) -> list[str | tuple[str, str]]:
    style = _BAD if data.get("outcome") == "rejected" else _GOOD
    amount = -data.get("credits_charged", 0) or data.get("credits", 0) * (-1 if data["code"] == "expired" else 1)
    parts: list[str | tuple[str, str]] = [
        (f"{data['code']:<22} ", style),
        f"{amount:+5d}" if amount else "    0",
        f"  balance {data['balance_before']} -> {data['balance_after']}",
    ]
    if data.get("lot"):
        parts.append(f"  lot {data['lot']} until {instant(data.get('lot_expires_at') or data.get('expires_at'))}")
    if data.get("next_allotment_at"):
        parts.append((f"  next credits {instant(data['next_allotment_at'])}", "cyan"))
    return parts


def show_statement(statement: Statement) -> None:
    """Show an account's statement."""
    out = console()
    whose = {"given": "as asked for", "clock": "this machine's time", "last_entry": "the time of its last entry"}
    balance = _count(statement.balance, "credit")
    out.print(Text.assemble((statement.account_id, "bold"), " can spend ", (balance, "bold green")))
    out.print(Text(f"at {instant(statement.as_of)}, {whose[statement.chosen]}", style=_DIM))
    for expires_at, amount in statement.expiring:
        out.print(f"  {amount} of them until {instant(expires_at)}")
    out.print()
    lots = [
        (
            lot.lot,
            Text(lot.state, style=_LOT_STYLES[lot.state]),
            f"{lot.remaining} of {lot.granted}",
            lot.origin,
            lot.plan or "",
            instant(lot.granted_at),
            instant(lot.expires_at),
        )
        for lot in statement.lots
    ]
    out.print(table(["lot", "state", "left", "origin", "plan", "from", "until"], lots, "lot,left"))
    out.print()
    lines = [_line(line) for line in statement.lines]
    out.print(
        table(["#", "time", "what", "amount", "lot", "balance", "request", "about"], lines, "#,amount,lot", "request")
    )


def _line(line: Line) -> tuple[Text | str | int, ...]:
    details = dict(line.details or {})
    about = line.recipient_id or details.get("subscription_id") or details.get("source_id") or ""
    if line.relationship not in (None, "none"):
        about += f" ({line.relationship})"
    if line.next_allotment_at is not None:
        about += f", next credits {instant(line.next_allotment_at)}"
    if "effective_at" in details:
        about += f", ends {instant(details['effective_at'])}"
    return (
        line.sequence,
        instant(line.as_of),
        line.code,
        f"{line.amount:+d}" if line.amount else "",
        line.lot or "",
        f"{line.balance_before} -> {line.balance_after}",
        str(line.request_id),
        about,
    )


def show_lag(groups: list[GroupLag]) -> None:
    """Show the lag of each group, and of its partitions where there is something to see."""
    out = console()
    for group in groups:
        notable = [each for each in group.partitions if each.records or each.committed is None]
        style = _BAD if group.never_committed else _WARN if group.records else _GOOD
        total = f"{_count(group.records, 'record')}, {_duration(group.seconds)}" if group.records else "nothing unread"
        if group.never_committed:
            total += ": a partition was never started, run `inmail topics apply`"
        out.print(Text.assemble((group.group, "bold"), f" on {group.topic}: ", (total, style)))
        if notable:
            heads = ["partition", "committed", "end", "records", "oldest", "note"]
            out.print(table(heads, [_partition(each) for each in notable], "partition,committed,end,records,oldest"))


def _partition(lag: PartitionLag) -> tuple[Text | str | int, ...]:
    note = "never committed" if lag.committed is None else f"retention took {lag.lost}" if lag.lost else ""
    committed = "" if lag.committed is None else lag.committed
    return lag.partition, committed, lag.end, lag.records, _duration(lag.seconds), Text(note, style=_BAD)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))


def show_audit(audit: Audit) -> None:
    """Show what an audit found."""
    out = console()
    totals = audit.totals
    counts = ((totals.accounts, "account"), (totals.lots, "lot"), (totals.rows, "journal row"))
    out.print(", ".join(_count(number, what) for number, what in counts))
    sign, style = ("=", _GOOD) if totals.balanced else ("is not", _BAD)
    parts = f"{totals.spent:,} spent + {totals.expired:,} expired + {totals.remaining:,} remaining"
    out.print(Text(f"{totals.granted:,} granted {sign} {parts}", style=style))
    out.print()
    for finding in audit.findings:
        mark = (f"{finding.count:,} x ", _BAD) if finding.count else ("ok ", _GOOD)
        out.print(Text.assemble(mark, (finding.name, "bold"), f": {finding.promise}"))
        for example in finding.examples:
            out.print(f"     {' '.join(filter(None, (example.account, example.place)))}: {example.found}")
        if (more := finding.count - len(finding.examples)) > 0:
            out.print(f"     ... and {more:,} more")
    verdict = ("The books balance.", "bold green") if audit.passed else ("The books do not balance.", _BAD)
    out.print(Text.assemble("\n", verdict))


def show_dead_letters(letters: list[DeadLetter], found: int) -> None:
    """Show a list of dead letters, `found` being how many there are with those not listed."""
    rows = [
        (
            f"{each.partition}/{each.offset}",
            Text(each.reason, style=_BAD),
            f"{each.origin_topic} {each.origin_partition}/{each.origin_offset}",
            instant(each.origin_time),
            each.error,
        )
        for each in letters
    ]
    if not rows:
        console().print(Text("No dead letters.", style=_GOOD))
        return
    console().print(table(["letter", "reason", "origin", "time", "error"], rows))
    if found > len(letters):
        console().print(f"{len(letters)} of {found:,}: see more with --last")


def show_dead_letter(letter: DeadLetter) -> None:
    """Show all of one dead letter."""
    facts = [
        ("reason", letter.reason),
        ("error", letter.error),
        ("origin", f"{letter.origin_topic} {letter.origin_partition}/{letter.origin_offset}"),
        ("time", instant(letter.origin_time)),
        ("set aside", instant(letter.set_aside_at)),
        ("account", letter.account_id or "none"),
        ("key", "none" if letter.key is None else readable(letter.key)),
        *((f"header {readable(k.encode())}", "none" if v is None else readable(v)) for k, v in letter.headers),
    ]
    out = console()
    for name, fact in facts:
        out.print(Text.assemble((f"{name:<10} ", "bold"), fact), soft_wrap=True)
    size = "" if letter.value is None else f" ({len(letter.value):,} bytes)"
    out.print(Text(f"value{size}", style="bold"))
    out.print(Text("none" if letter.value is None else readable(letter.value)), soft_wrap=True)
