"""The words of the scenario tables: how an event, an instant and a time span are written and read."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

__all__ = ["TICK", "Input", "Names", "Words", "read_event", "read_instant", "read_span", "write_event", "write_instant"]

TICK = "inmail.expiry.tick.v1"
NAMESPACE = UUID("00000000-0000-0000-0000-00000000beef")
UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds", "us": "microseconds"}
RELATIONSHIPS = ("none", "connection", "open_profile")


@dataclass(frozen=True)
class Input:
    """One input record: an event, and when the broker has it. What is left at its default is not in `data`."""

    type: str
    account: str  # empty for a tick
    request_id: UUID
    data: dict[str, Any]
    as_of: datetime
    behind: bool = False  # whether the other topic has records unread that come before it (rule 21)

    def at(self, instant: datetime, *, behind: bool = False) -> "Input":
        """Return the same event, read at another time."""
        return replace(self, as_of=instant, behind=behind)


class Names:
    """Request ids by their names in a table, and the other way round."""

    def __init__(self) -> None:
        self._names: dict[UUID, str] = {}

    def id_of(self, name: str) -> UUID:
        """Return the request id that a name stands for, the same in every run."""
        request_id = uuid5(NAMESPACE, name)
        self._names[request_id] = name
        return request_id

    def name_of(self, request_id: UUID) -> str:
        """Return the name that was given for a request id."""
        return self._names[request_id]


class Words:
    """The words of a line that are still to be read."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def __bool__(self) -> bool:
        return bool(self._words)

    def take(self, what: str) -> str:
        """Return the next word, which must be there."""
        if not self._words:
            raise ValueError(f"expected {what}, got the end of the line")
        return self._words.pop(0)

    def take_if(self, *words: str) -> str | None:
        """Return the next word if it is one of these."""
        return self._words.pop(0) if self._words and self._words[0] in words else None

    def end(self) -> None:
        """See that nothing is left."""
        if self._words:
            raise ValueError(f"did not expect {' '.join(self._words)!r}")


# -- values -----------------------------------------------------------------------------------------------------------


def read_instant(text: str) -> datetime:
    """Return an instant in UTC: a date, or a date and a time."""
    instant = datetime.fromisoformat(text)
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)


def write_instant(instant: datetime) -> str:
    """Return an instant as it is written: a date where it is midnight."""
    text = instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return text.removesuffix("T00:00:00Z")


def read_span(text: str) -> timedelta:
    """Return a span of time: 30d, 24h, 1d12h, 1us."""
    parts = re.findall(r"(\d+)(us|d|h|m|s)", text)
    if "".join(number + unit for number, unit in parts) != text or not parts:
        raise ValueError(f"expected a span of time like 30d or 1d12h, got {text!r}")
    return sum((timedelta(**{UNITS[unit]: int(number)}) for number, unit in parts), timedelta())


# -- parts of a line --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """A member of `data`, written where it stands or after a keyword that may be left out."""

    name: str
    kind: str = "text"  # text, instant, credits or request
    keyword: str | None = None
    required: bool = True

    def read(self, words: Words, data: dict[str, Any], names: Names) -> None:
        """Take the member from the line."""
        if self.keyword and not words.take_if(self.keyword):
            if self.required:
                raise ValueError(f"expected {self.keyword!r}")
            return
        text = words.take(self.name)
        readers = {"text": str, "instant": read_instant, "credits": int, "request": names.id_of}
        data[self.name] = readers[self.kind](text)

    def write(self, data: dict[str, Any], names: Names) -> list[str]:
        """Return the words that `read` takes."""
        if self.name not in data:
            return []
        value = data[self.name]
        writers = {"text": _quoted, "instant": write_instant, "credits": str, "request": names.name_of}
        return [self.keyword] * bool(self.keyword) + [writers[self.kind](value)]


@dataclass(frozen=True)
class Choice:
    """A member of `data` that is one of some words, and has a default that is not written."""

    name: str
    words: tuple[str, ...]
    default: str
    default_is_sent: bool

    def read(self, words: Words, data: dict[str, Any], _names: Names) -> None:
        """Take the member from the line, or its default."""
        word = words.take_if(*self.words) or self.default
        if word != self.default or self.default_is_sent:
            data[self.name] = word

    def write(self, data: dict[str, Any], _names: Names) -> list[str]:
        """Return the words that `read` takes."""
        word = data.get(self.name, self.default)
        return [] if word == self.default else [word]


class Period:
    """The members period_start and period_end, written as start..end."""

    def read(self, words: Words, data: dict[str, Any], _names: Names) -> None:
        """Take both members from the line."""
        start, _, end = words.take("start..end").partition("..")
        data |= {"period_start": read_instant(start), "period_end": read_instant(end)}

    def write(self, data: dict[str, Any], _names: Names) -> list[str]:
        """Return the word that `read` takes."""
        return [f"{write_instant(data['period_start'])}..{write_instant(data['period_end'])}"]


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w.:/+-]+", text) else f'"{text}"'


_SUBSCRIPTION = Value("subscription_id")
_PERIOD = (
    _SUBSCRIPTION,
    Value("plan"),
    Period(),
    Choice("term", ("annual",), "monthly", default_is_sent=False),
    Value("anchor_day", "credits", "anchor", required=False),
)
_RELATIONSHIP = Choice("relationship", RELATIONSHIPS, "none", default_is_sent=True)
_CREDITS = Value("credits", "credits")
_SEND_ID = Value("send_id", "request")

SYNTAX: dict[str, tuple[str, tuple[Value | Choice | Period, ...]]] = {
    "send": (
        "inmail.send.requested.v1",
        (Value("recipient_id"), _RELATIONSHIP, Value("sender_id", "text", "by", False)),
    ),
    "undeliverable": ("inmail.send.undeliverable.v1", (_SEND_ID,)),
    "responded": ("inmail.recipient.responded.v1", (_SEND_ID,)),
    "activate": ("inmail.subscription.activated.v1", _PERIOD),
    "renew": ("inmail.subscription.renewed.v1", _PERIOD),
    "change": ("inmail.subscription.plan-changed.v1", _PERIOD),
    "cancel": ("inmail.subscription.cancelled.v1", (_SUBSCRIPTION, Value("effective_at", "instant", "at"))),
    "take-back": ("inmail.subscription.cancellation-taken-back.v1", (_SUBSCRIPTION,)),
    "promotion": ("inmail.promotion.granted.v1", (_CREDITS, Value("promotion_id", "text", "of"))),
    "survey": ("inmail.survey.granted.v1", (_CREDITS, Value("survey_id", "text", "of"))),
    "purchase": ("inmail.credits.purchased.v1", (_CREDITS, Value("purchase_id", "text", "of"))),
    "void": ("inmail.grant.voided.v1", (Value("grant_id", "request"), Value("reason", "text", "because"))),
    "adjust": (
        "inmail.credits.adjusted.v1",
        (_CREDITS, Value("actor", "text", "by"), Value("reason", "text", "because")),
    ),
    "erase": ("inmail.account.erased.v1", ()),
    "tick": (TICK, (Value("as_of", "instant", "at", False),)),
}
VERBS = {type_: verb for verb, (type_, _) in SYNTAX.items()}


def read_event(words: Words, names: Names) -> tuple[str, dict[str, Any]]:
    """Return the type and data of the event that a line speaks of, leaving the words behind it."""
    verb = words.take("an event")
    if verb not in SYNTAX:
        raise ValueError(f"expected one of {', '.join(SYNTAX)}, again, at, advance, catalogue, or got a typo: {verb!r}")
    type_, parts = SYNTAX[verb]
    data: dict[str, Any] = {}
    for part in parts:
        part.read(words, data, names)
    return type_, data


def write_event(type_: str, data: dict[str, Any], names: Names) -> str:
    """Return an event as a line's first words."""
    verb = VERBS[type_]
    return " ".join([verb, *(word for part in SYNTAX[verb][1] for word in part.write(data, names))])
