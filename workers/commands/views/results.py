"""Terminal output of results: one line each."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from infra.terminal import format_instant
from workers.commands.views.styles import BAD, DIM, GOOD, INFO, WARN, TextPart, format_count
from workers.ops.dead_letters.letters import escape_unprintable
from workers.ops.topics.results import Result

__all__ = ["show_result"]


_DECREASES = frozenset({"expired", "voided", "adjusted", "forfeited", "cap_forfeited"})
_NOTICES = frozenset({"low", "exhausted", "expiring_soon"})


def show_result(result: Result, out: Console) -> None:
    """Show one result as one line."""
    data = result.data
    name = result.event["type"].removeprefix("inmail.").removesuffix(".v1")
    head: list[TextPart] = [
        (format_instant(result.time).ljust(25), DIM),
        f"{result.account_id or f'partition {result.partition}':<20} ",
        f"{name:<22} ",
    ]
    tail: list[TextPart]
    if name == "tick.decided":
        lots, credits_ = format_count(data["lots"], "lot"), format_count(data["credits"], "credit")
        tail = [f"{lots}, {credits_}, up to {format_instant(data['horizon'])}"]
    elif name == "message.dead-lettered":
        origin = data["origin"]
        place = f"{escape_unprintable(origin['topic'])} {origin['partition']}/{origin['offset']}"
        tail = [(f"{data['reason']:<22} ", BAD), f"{place}: {escape_unprintable(data['error'])}"]
    else:
        tail = _movement_parts(data)
    repeat: list[TextPart] = [("  repeat", WARN)] if data.get("repeat") else []
    out.print(Text.assemble(*head, *tail, *repeat), soft_wrap=True)


def _movement_parts(data: Mapping[str, Any]) -> list[TextPart]:
    code = data["code"]
    style = BAD if data.get("outcome") == "rejected" else WARN if code in _NOTICES else GOOD
    amount = _signed_amount(data)
    parts: list[TextPart] = [
        (f"{code:<22} ", style),
        f"{amount:+5d}" if amount else "    0",
        f"  balance {data['balance_before']} -> {data['balance_after']}",
    ]
    if data.get("lot"):
        until = f"  lot {data['lot']} until {format_instant(data.get('lot_expires_at') or data.get('expires_at'))}"
        parts.append(f"  {data['credits']} of{until[1:]}" if code == "expiring_soon" else until)
    return parts + [(f"  {text}", INFO) for text in _detail_texts(data)]


def _signed_amount(data: Mapping[str, Any]) -> int:
    """Return the signed number of credits that moved; 0 for a notice, which moves none."""
    code = data["code"]
    if code in _NOTICES:
        return 0
    amount: int = -data.get("credits_charged", 0) or data.get("credits", 0)
    return -amount if code in _DECREASES else amount


# Formats of the fields that a result may have in addition to its code and balances.
_DETAIL_FORMATS = {
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


def _detail_texts(data: Mapping[str, Any]) -> list[str]:
    details = [(name, data[name]) for name in _DETAIL_FORMATS if data.get(name) is not None]
    return [
        _DETAIL_FORMATS[name].format(format_instant(value) if _is_instant(name) else value) for name, value in details
    ]


def _is_instant(name: str) -> bool:
    return name.endswith("_at") or name == "period_start"
