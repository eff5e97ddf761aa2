"""The stated meaning of every field of every result, as a check on what the workers wrote.

`MEANINGS` has a check for each member of each event's data. A check sees the event, the record that it answers, and
what a reader knows of the account from the events before: nothing here asks the ledger. Balances, which answer no
record, have theirs in `balance_contract.py`.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]

from schemas.catalogue import CATALOGUE
from schemas.envelope import encode
from tests.workers.account_reader import AccountReader, HeldLot, instant
from tests.workers.balance_contract import BALANCE, broken_order, broken_words_of_balance
from workers.ledger.model import Request

__all__ = ["MEANINGS", "SCHEMAS", "TICK_MEMBERS", "InputRecord", "broken_words", "broken_words_of_all", "records_of"]

_GENERATED = Path(__file__).parents[2] / "schemas" / "generated"
SCHEMAS: Final = {
    path.name.removesuffix(".json"): json.loads(path.read_text()) for path in _GENERATED.glob("inmail.*.v1.json")
}
_VALIDATORS = {name: jsonschema.Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


@dataclass(frozen=True)
class InputRecord:
    """A record that the workers read: its event and its time by the broker."""

    event: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True)
class Moment:
    """One event of an account, with what is known before and after it."""

    data: Mapping[str, Any]
    asked: InputRecord
    reader: AccountReader  # after it
    before: int  # what could be spent at as_of
    left: int  # on the event's lot, before it

    @property
    def as_of(self) -> datetime:
        """The instant at which it was decided."""
        return instant(self.data["as_of"])

    @property
    def lot(self) -> HeldLot:
        """The event's lot."""
        return self.reader.lots[self.data["lot"]]

    @property
    def asks(self) -> Mapping[str, Any]:
        """The data of the event that was answered."""
        found: Mapping[str, Any] = self.asked.event["data"]
        return found

    def earlier(self, **members: object) -> list[dict[str, Any]]:
        """Return the data of the account's earlier events with these members."""
        found = [event["data"] for event in self.reader.events[:-1]]
        return [data for data in found if all(data.get(name) == value for name, value in members.items())]


Check = Callable[[Any, Moment], bool]
_ACCEPTED = {"charged", "free", "cancelled", "cancellation_taken_back", "erased", "no_credits_in_plan", "plan_changed"}
_CAUSES = {"inmail.send.undeliverable.v1": "undeliverable", "inmail.recipient.responded.v1": "responded"}
_ORIGINS = {
    "inmail.promotion.granted.v1": ("promotion", "promotion_id"),
    "inmail.survey.granted.v1": ("survey", "survey_id"),
    "inmail.credits.purchased.v1": ("purchase", "purchase_id"),
    "inmail.credits.adjusted.v1": ("adjustment", None),
}
_VOID, _CHANGE = "inmail.grant.voided.v1", "inmail.subscription.plan-changed.v1"


def _asked(name: str) -> Check:
    """Return the check that a member is the answered event's; null where that has none, or a used id."""
    return lambda value, m: value == m.asks.get(name) or (value is None and m.data["code"] == "key_conflict")


def _only(*codes: str) -> Check:
    """Return the check that a member is given with these codes and null with others."""
    return lambda value, m: (value is not None) == (m.data["code"] in codes)


def _same_instant(value: str | None, other: str | None) -> bool:
    return (value and instant(value)) == (other and instant(other))


def _asked_instant(name: str) -> Check:
    return lambda value, m: _same_instant(value, None if m.data["code"] == "key_conflict" else m.asks.get(name))


def _granting_event(value: str | None, m: Moment) -> bool:
    """Of a void the grant that it names; where a period was granted already, the event that granted it."""
    if m.asked.event["type"] == _VOID:
        return value == m.asks["grant_id"]
    if m.data["code"] not in ("period_already_granted", "plan_unchanged"):
        return value is None
    return value is None or bool(m.earlier(request_id=value))


def _cancelled_end(value: str | None, m: Moment) -> bool:
    """The earliest end of the cancels that hold; of a cancel for an erased account, the end that was asked for."""
    if m.data["code"] == "cancelled":
        return value is not None and instant(value) == min(
            m.reader.ends[m.data["subscription_id"]], instant(m.asks["effective_at"])
        )
    return _asked_instant("effective_at")(value, m)


def _moved_ends(value: list[dict[str, Any]] | None, m: Moment) -> bool:
    """Of a cancel, and of one taken back: the subscription's lots whose end it moved; all that still hold credits."""
    code = m.data["code"]
    if code not in ("cancelled", "cancellation_taken_back") or value is None:
        return value is None and code not in ("cancelled", "cancellation_taken_back")
    lots = {number: lot for number, lot in m.reader.lots.items() if lot.subscription_id == m.data["subscription_id"]}
    if not {each["lot"] for each in value} <= lots.keys():
        return False
    if code == "cancellation_taken_back":
        return all(lots[each["lot"]].longest == instant(each["expires_at"]) for each in value)
    end = instant(m.data["effective_at"])
    told = all(instant(each["expires_at"]) == max(lots[each["lot"]].granted_at, end) for each in value)
    over = max(end, instant(m.data["as_of"]))  # what had ended by itself keeps its end
    return told and all(lot.ends <= max(lot.granted_at, over) for lot in lots.values() if lot.remaining)


_COMMON: Final[dict[str, Check]] = {
    "request_id": lambda value, m: value == m.asked.event["id"],
    "sequence": lambda value, m: value == len(m.reader.events),
    "as_of": lambda value, m: instant(value) == m.asked.at,
    "balance_before": lambda value, m: value == m.before,
    "balance_after": lambda value, m: value == m.reader.balance(m.as_of),
    "source": lambda value, m: bool(value) and m.asked is not None,  # the record at it was looked up
    "repeat": lambda value, _: value is False,  # repeats are compared with their first answers
    "original_id": lambda value, _: value is None,  # the tables' ids are UUIDs
}
_OUTCOME: Final[Check] = lambda value, m: value == ("accepted" if m.data["code"] in _ACCEPTED else "rejected")  # noqa: E731
_LOT_END: Final[Check] = lambda value, m: instant(value) == m.lot.ends  # noqa: E731
_TAKEN: Final[Check] = lambda value, m: value == m.left - m.lot.remaining  # noqa: E731
_CAUSE: Final[Check] = lambda value, m: value == _CAUSES[m.asked.event["type"]]  # noqa: E731
_NOT_FINAL: Final = {"waited_for": _only("balance_not_current"), "retry_after_seconds": _only("balance_not_current")}

MEANINGS: Final[dict[str, dict[str, Check]]] = {
    "inmail.send.decided.v1": {
        "outcome": _OUTCOME,
        "recipient_id": _asked("recipient_id"),
        "relationship": _asked("relationship"),
        "sender_id": _asked("sender_id"),
        "credits_charged": lambda value, m: value == (m.data["code"] == "charged"),
        "lot": lambda value, m: (
            (value is not None) == (m.data["code"] == "charged")
            and (value is None or (m.left > 0 and m.lot.granted_at <= m.as_of < m.lot.ends))
        ),
        "lot_expires_at": lambda value, m: (
            value is None if m.data["lot"] is None else value is not None and instant(value) == m.lot.ends
        ),
        "next_allotment_at": lambda value, m: (
            value is None or (m.data["code"] == "insufficient_credits" and instant(value) > m.as_of)
        ),
        "limit": _only("rate_limited"),
        "retry_at": lambda value, m: (
            (value is not None) == (m.data["code"] == "rate_limited") and (value is None or instant(value) > m.as_of)
        ),
        **_NOT_FINAL,
    },
    "inmail.report.decided.v1": {
        "outcome": lambda value, _: value == "rejected",
        "send_id": _asked("send_id"),
        "cause": _CAUSE,
    },
    "inmail.billing.decided.v1": {
        "outcome": _OUTCOME,
        "subscription_id": _asked("subscription_id"),
        "effective_at": _cancelled_end,
        "plan": _asked("plan"),
        "period_start": _asked_instant("period_start"),
        "grant_id": _granting_event,
        "lot_ends": _moved_ends,
        "kept_lot": lambda value, m: (
            value is None or (m.asked.event["type"] == _CHANGE and m.reader.lots[value].granted_at <= m.as_of)
        ),
        **_NOT_FINAL,
    },
    "inmail.credits.granted.v1": {
        "credits": lambda value, m: value == m.lot.remaining,
        "lot": lambda value, m: value == len(m.reader.lots),
        "granted_at": lambda value, m: instant(value) == instant(m.data["period_start"] or m.data["as_of"]),
        "expires_at": lambda value, m: m.lot.granted_at <= instant(value),  # balances and later events say more
        "origin": lambda value, m: value == _ORIGINS.get(m.asked.event["type"], ("subscription", None))[0],
        "subscription_id": _asked("subscription_id"),
        "plan": _asked("plan"),
        "period_start": lambda value, m: (
            value is None
            if "period_start" not in m.asks
            else value is not None and instant(m.asks["period_start"]) <= instant(value)
        ),
        "tops_up": lambda value, m: (
            value is None
            or (
                "period_start" in m.asks
                and value != m.data["lot"]
                and (m.reader.lots[value].ends == m.lot.ends or m.reader.is_voided(value))
            )
        ),
        "source_id": lambda value, m: value == m.asks.get(_ORIGINS.get(m.asked.event["type"], ("", None))[1] or ""),
        "actor": _asked("actor"),
        "reason": _asked("reason"),
    },
    "inmail.credits.reversed.v1": {
        "credits": lambda value, m: value == m.lot.remaining - m.left == (m.data["code"] == "reversed"),
        "lot": lambda value, m: value == m.earlier(request_id=m.asks["send_id"], code="charged")[0]["lot"],
        "expires_at": _LOT_END,
        "send_id": _asked("send_id"),
        "cause": _CAUSE,
    },
    "inmail.credits.voided.v1": {
        "credits": lambda value, m: _TAKEN(value, m) and (m.data["code"] == "adjusted" or m.lot.remaining == 0),
        "lot": lambda _, m: m.lot.remaining >= 0,
        "expires_at": _LOT_END,
        "grant_id": lambda value, m: (
            value == (m.lot.granted_by if m.asked.event["type"] == _VOID else None) == m.asks.get("grant_id")
        ),
        "actor": _asked("actor"),
        "reason": lambda value, m: value == m.asks.get("reason", "account_erased"),
    },
    "inmail.credits.forfeited.v1": {
        "credits": lambda value, m: _TAKEN(value, m) and (m.data["code"] != "forfeited" or m.lot.remaining == 0),
        "lot": lambda _, m: m.lot.remaining >= 0,
        "expires_at": _LOT_END,
        "subscription_id": lambda value, m: value == m.lot.subscription_id,
        "plan": lambda value, m: value == (m.lot.plan if m.data["code"] == "forfeited" else None),
        "cap": lambda value, m: (
            (value is not None) == (m.data["code"] == "cap_forfeited")
            and (value is None or value <= m.reader.balance(m.as_of))
        ),
    },
    "inmail.credits.expired.v1": {
        "credits": lambda value, m: value == m.left and m.lot.remaining == 0,
        "lot": lambda _, m: m.lot.spendable(m.as_of) == 0,
        "expires_at": lambda value, m: _LOT_END(value, m) and instant(value) <= m.as_of,
    },
    "inmail.credits.low.v1": {
        "threshold": lambda value, m: 0 < m.data["balance_after"] <= value,
    },
    "inmail.credits.exhausted.v1": {},
    "inmail.credits.expiring-soon.v1": {
        "credits": lambda value, m: value == m.lot.remaining,
        "lot": lambda _, m: m.lot.remaining > 0,
        "expires_at": lambda value, m: _LOT_END(value, m) and instant(value) > m.as_of,
    },
}
# A code says something of the balance, whatever the members beside it.
TICK_MEMBERS: Final = frozenset(
    {"request_id", "code", "as_of", "horizon", "lots", "credits", "complete", "source", "repeat"}
)
_CODES: Final[dict[str, Callable[[Moment], bool]]] = {
    "charged": lambda m: m.data["balance_after"] == m.before - 1,
    "insufficient_credits": lambda m: m.before == 0,
    "exhausted": lambda m: m.data["balance_after"] == 0,
}
for _checks in MEANINGS.values():
    _checks.update({name: check for name, check in _COMMON.items() if name not in _checks})
    _checks["code"] = lambda value, m: _CODES.get(value, lambda _: True)(m)


def _known_codes(name: str) -> list[str]:
    data: dict[str, Any] = SCHEMAS[name]["$defs"][SCHEMAS[name]["properties"]["data"]["$ref"].rpartition("/")[2]]
    code = data["properties"]["code"]
    return code.get("x-extensible-enum") or code.get("enum") or [code["const"]]


def broken_words(event: Mapping[str, Any], asked: InputRecord, reader: AccountReader) -> Iterator[str]:
    """Take an account's next event, and yield each member that does not mean what the contract says."""
    yield from _against_schema(event)
    data = event["data"]
    before = reader.balance(instant(data["as_of"]))
    held = reader.lots.get(data.get("lot") or 0)
    left = 0 if held is None else held.remaining
    reader.take(event)
    moment = Moment(data, asked, reader, before, left)
    if data["code"] not in _known_codes(event["type"]):
        yield f"{event['type']}: code {data['code']!r} is not in the schema"
    for name, check in MEANINGS[event["type"]].items():
        if not check(data.get(name), moment):
            yield f"{event['type']} {data['code']}: {name} = {data.get(name)!r}, of {dict(asked.event)}; {dict(data)}"
    if event["time"] != data["as_of"]:
        yield f"{event['type']}: time is not as_of"


def broken_words_of_tick(
    event: Mapping[str, Any], asked: InputRecord, booked: list[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield each member of a tick's answer that is not true.

    Args:
        event: the answer.
        asked: the tick.
        booked: the data of the expiries that the tick's record caused.

    """
    yield from _against_schema(event)
    data = event["data"]
    true = {
        "request_id": data["request_id"] == asked.event["id"],
        "as_of": instant(data["as_of"]) == asked.at,
        "horizon": instant(data["horizon"]) <= instant(data["as_of"]),
        "lots": data["lots"] >= len(booked),  # lots that were spent to nothing end without an event
        "credits": data["credits"] == sum(each["data"]["credits"] for each in booked),
        "booked": all(instant(each["data"]["expires_at"]) <= instant(data["horizon"]) for each in booked),
        "code": data["code"] == "key_conflict" or (data["code"] == "booked" and "complete" in data),
        "repeat": data["repeat"] is False,
        "complete": data["complete"] is True,  # no table books more than one tick can
    }
    yield from (f"tick: {name} of {dict(data)}" for name, holds in true.items() if not holds)


def broken_words_of_all(
    events: Iterable[Mapping[str, Any]], records: Mapping[tuple[str, int, int], InputRecord]
) -> tuple[list[str], dict[str, AccountReader]]:
    """Read all results as one reader, and return what is not true of them, and what is known of each account then.

    Args:
        events: the committed events of both result topics, in any order, and of the topic of balances, if it is on.
        records: the records of the input topics, by topic, partition and offset.

    """
    first: dict[str, Mapping[str, Any]] = {}
    broken: list[str] = []
    for event in sorted(events, key=_is_repeat):
        plain = first.setdefault(event["id"], event)
        if plain is not event and _as_first(event) != plain:
            broken.append(f"{event['type']}: {event['id']} is told in two ways")
    readers: dict[str, AccountReader] = defaultdict(AccountReader)
    booked = defaultdict(list)
    balances = {(e["subject"], e["data"]["sequence"]): e for e in first.values() if e["type"] == BALANCE}
    of_accounts = [event for event in first.values() if "subject" in event and event["type"] != BALANCE]
    for event in sorted(of_accounts, key=lambda each: (each["subject"], each["data"]["sequence"])):
        if (asked := records.get(_source(event))) is None:
            broken.append(f"{event['type']}: source {_source(event)} has no record")
            continue
        reader = readers[event["subject"]]
        broken += broken_words(event, asked, reader)
        if balance := balances.get((event["subject"], event["data"]["sequence"])):
            broken += [*_against_schema(balance), *broken_words_of_balance(balance, reader)]
        if event["data"]["code"] == "expired":
            booked[_source(event)].append(event)
    for (account, _), balance in balances.items():
        broken += broken_order(balance, readers[account])
    for event in first.values():
        if "subject" not in event:
            asked = records.get(_source(event))
            expired = booked[_source(event)]
            broken += ["tick: no record"] if asked is None else broken_words_of_tick(event, asked, expired)
    return broken, dict(readers)


def _is_repeat(event: Mapping[str, Any]) -> bool:
    return bool(event["data"].get("repeat"))  # a balance that is told again does not say so


def _as_first(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as it was told first."""
    return {**event, "data": event["data"] | {"repeat": False}} if _is_repeat(event) else dict(event)


def _source(event: Mapping[str, Any]) -> tuple[str, int, int]:
    source = event["data"]["source"]
    return source["topic"], source["partition"], source["offset"]


def _against_schema(event: Mapping[str, Any]) -> Iterator[str]:
    for error in _VALIDATORS[event["type"]].iter_errors(event):
        yield f"{event['type']}: {error.json_path}: {error.message}"


def records_of(requests: Iterable[Request[Any]]) -> dict[tuple[str, int, int], InputRecord]:
    """Return the records that hold requests, by topic, partition and offset."""
    topics = {row.name: row.topic for row in CATALOGUE}
    return {
        (topics[each.event.type], each.partition, each.offset): InputRecord(json.loads(encode(each.event)), each.as_of)
        for each in requests
    }
