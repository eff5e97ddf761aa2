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
_FOREIGN = (LookupError, TypeError, AttributeError, ValueError, OverflowError)  # of a body that no worker wrote
_NOTICES = frozenset({"low", "exhausted", "expiring_soon"})


def show_result(result: Result, out: Console) -> None:
    """Show one result as one line: of an event that this version does not know, its time, account and name."""
    name = result.event["type"].removeprefix("inmail.").removesuffix(".v1")
    account = result.account_id or f"partition {result.partition}"
    head: list[TextPart] = [
        (format_instant(result.time).ljust(25), DIM),
        f"{account:<20} ",
        f"{name:<22} ",
    ]
    try:
        tail = _tail(name, result.data)
    except _FOREIGN:  # a foreign event, or one of a newer version
        tail = []
    out.print(Text.assemble(*map(_printable, [*head, *tail])), soft_wrap=True)


def _printable(part: TextPart) -> TextPart:
    """Return a part without characters that control the terminal: anybody may have written an event."""
    if isinstance(part, str):
        return escape_unprintable(part)
    text, style = part
    return escape_unprintable(text), style


def _tail(name: str, data: Mapping[str, Any]) -> list[TextPart]:
    """Return what an event tells beside its time, account and name.

    Raises:
        LookupError, TypeError, AttributeError, ValueError, OverflowError: when its body is not what workers write.

    """
    tail: list[TextPart]
    if name == "tick.decided":
        lots, credits_ = format_count(data["lots"], "lot"), format_count(data["credits"], "credit")
        tail = [f"{lots}, {credits_}, up to {format_instant(data['horizon'])}"]
    elif name == "message.dead-lettered":
        origin = data["origin"]
        place = f"{origin['topic']} {origin['partition']}/{origin['offset']}"
        tail = [(f"{data['reason']:<22} ", BAD), f"{place}: {data['error']}"]
    else:
        tail = _movement_parts(data)
    return [*tail, ("  repeat", WARN)] if data.get("repeat") else tail


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
