"""How results look on a terminal: one line each."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from infra.terminal import instant
from workers.commands.views.styles import BAD, DIM, GOOD, NEWS, WARN, TextPart, count_of
from workers.ops.dead_letters.letters import escape_unprintable
from workers.ops.topics.results import Result

__all__ = ["show_result"]


_TAKEN = frozenset({"expired", "voided", "adjusted", "forfeited", "cap_forfeited"})
_NOTICES = frozenset({"low", "exhausted", "expiring_soon"})


def show_result(result: Result, out: Console) -> None:
    """Show one result as one line."""
    data = result.data
    name = result.event["type"].removeprefix("inmail.").removesuffix(".v1")
    head: list[TextPart] = [
        (instant(result.event["time"]).ljust(25), DIM),
        f"{result.account_id or f'partition {result.partition}':<20} ",
        f"{name:<22} ",
    ]
    tail: list[TextPart]
    if name == "tick.decided":
        lots, credits_ = count_of(data["lots"], "lot"), count_of(data["credits"], "credit")
        tail = [f"{lots}, {credits_}, up to {instant(data['horizon'])}"]
    elif name == "message.dead-lettered":
        origin = data["origin"]
        place = f"{escape_unprintable(origin['topic'])} {origin['partition']}/{origin['offset']}"
        tail = [(f"{data['reason']:<22} ", BAD), f"{place}: {escape_unprintable(data['error'])}"]
    else:
        tail = _movement(data)
    repeat: list[TextPart] = [("  repeat", WARN)] if data.get("repeat") else []
    out.print(Text.assemble(*head, *tail, *repeat), soft_wrap=True)


def _movement(data: Mapping[str, Any]) -> list[TextPart]:
    code = data["code"]
    style = BAD if data.get("outcome") == "rejected" else WARN if code in _NOTICES else GOOD
    amount = _amount(data)
    parts: list[TextPart] = [
        (f"{code:<22} ", style),
        f"{amount:+5d}" if amount else "    0",
        f"  balance {data['balance_before']} -> {data['balance_after']}",
    ]
    if data.get("lot"):
        until = f"  lot {data['lot']} until {instant(data.get('lot_expires_at') or data.get('expires_at'))}"
        parts.append(f"  {data['credits']} of{until[1:]}" if code == "expiring_soon" else until)
    return parts + [(f"  {text}", NEWS) for text in _about(data)]


def _amount(data: Mapping[str, Any]) -> int:
    """Return what moved: up or down. A notice tells credits that stay."""
    code = data["code"]
    if code in _NOTICES:
        return 0
    amount: int = -data.get("credits_charged", 0) or data.get("credits", 0)
    return -amount if code in _TAKEN else amount


# What a result may tell beside its code and its balances, and how it is said.
_WORDS = {
    "recipient_id": "to {}",
    "next_allotment_at": "next credits {}",
    "limit": "limit of the {}",
    "retry_at": "again from {}",
    "send_id": "send {}",
    "cause": "{}",
    "origin": "{}",
    "source_id": "{}",
    "plan": "{}",
    "subscription_id": "{}",
    "period_start": "period from {}",
    "effective_at": "ends {}",
    "grant_id": "grant {}",
    "cap": "cap {}",
    "actor": "by {}",
    "reason": "{}",
    "threshold": "at most {}",
    "sender_id": "seat {}",
}


def _about(data: Mapping[str, Any]) -> list[str]:
    told = [(name, data[name]) for name in _WORDS if data.get(name) is not None]
    return [_WORDS[name].format(instant(value) if _is_instant(name) else value) for name, value in told]


def _is_instant(name: str) -> bool:
    return name.endswith("_at") or name == "period_start"
