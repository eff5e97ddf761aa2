"""The one table of events: what each is called, where it travels, who reads it; and decoding by it."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn, Union

from pydantic import BaseModel, Discriminator, TypeAdapter, ValidationError

from schemas.balances import AccountBalance
from schemas.billing import (
    AccountErased,
    CancellationTakenBack,
    CreditsAdjusted,
    CreditsPurchased,
    GrantVoided,
    PromotionGranted,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionPlanChanged,
    SubscriptionRenewed,
    SurveyGranted,
)
from schemas.content_modes import Headers, PlainForm, merge_binary, plain_form, refuse_without_version
from schemas.dead_letters import DeadLettered, DeadLetterReason
from schemas.decisions import BillingDecided, ReportDecided, SendDecided, TickDecided
from schemas.envelope import MAX_VALUE_BYTES, Data, Event
from schemas.movements import CreditsExpired, CreditsForfeited, CreditsGranted, CreditsReversed, CreditsVoided
from schemas.notices import CreditsExhausted, CreditsExpiringSoon, CreditsLow
from schemas.sends import RecipientResponded, SendRequested, SendUndeliverable
from schemas.ticks import ExpiryTick
from schemas.undecodable import Undecodable, excerpt, explain, refuse_repeated_names

__all__ = [
    "ALL_TOPICS",
    "BALANCES",
    "BILLING_EVENTS",
    "CATALOGUE",
    "CREDIT_EVENTS",
    "DEAD_LETTERS",
    "EXPIRY_TICKS",
    "INPUT_TOPICS",
    "OUTPUT_TOPICS",
    "SEND_REQUESTS",
    "SEND_RESULTS",
    "TOPICS",
    "EventType",
    "Undecodable",
    "decode",
    "fingerprint",
]

SEND_REQUESTS: Final = "inmail.send-requests"
BILLING_EVENTS: Final = "inmail.billing-events"
EXPIRY_TICKS: Final = "inmail.expiry-ticks"
SEND_RESULTS: Final = "inmail.send-results"
CREDIT_EVENTS: Final = "inmail.credit-events"
DEAD_LETTERS: Final = "inmail.dead-letters"
BALANCES: Final = "inmail.balances"  # only where it is switched on


class EventType(NamedTuple):
    """One row of the catalogue."""

    model: type[Event]
    topic: str
    direction: Literal["in", "out"]
    key: Literal["account", "account and lane", "the message's"] | None  # what the record's key is
    group: str | None  # the consumer group that decides it, for what comes in
    summary: str

    @property
    def name(self) -> str:
        """The value of `type`, version included."""
        return self.model.type_name()


_SEND, _BILLING, _EXPIRY = "inmail-send", "inmail-billing", "inmail-expiry"

# fmt: off
CATALOGUE: Final = (
    EventType(SendRequested, SEND_REQUESTS, "in", "account", _SEND, "A member asks to send one InMail."),
    EventType(SendUndeliverable, SEND_REQUESTS, "in", "account", _SEND, "A message could not be delivered."),
    EventType(RecipientResponded, SEND_REQUESTS, "in", "account", _SEND, "A recipient responded to a message."),
    EventType(SubscriptionActivated, BILLING_EVENTS, "in", "account", _BILLING, "A subscription began."),
    EventType(SubscriptionRenewed, BILLING_EVENTS, "in", "account", _BILLING, "A subscription goes on."),
    EventType(SubscriptionPlanChanged, BILLING_EVENTS, "in", "account", _BILLING, "A subscription has another plan."),
    EventType(SubscriptionCancelled, BILLING_EVENTS, "in", "account", _BILLING, "A subscription ends."),
    EventType(CancellationTakenBack, BILLING_EVENTS, "in", "account", _BILLING, "A cancelled subscription goes on."),
    EventType(PromotionGranted, BILLING_EVENTS, "in", "account", _BILLING, "A promotion gives credits."),
    EventType(SurveyGranted, BILLING_EVENTS, "in", "account", _BILLING, "An answered survey gives credits."),
    EventType(CreditsPurchased, BILLING_EVENTS, "in", "account", _BILLING, "Credits were bought on their own."),
    EventType(GrantVoided, BILLING_EVENTS, "in", "account", _BILLING, "Billing withdraws a grant."),
    EventType(CreditsAdjusted, BILLING_EVENTS, "in", "account", _BILLING, "Somebody sets a balance right."),
    EventType(AccountErased, BILLING_EVENTS, "in", "account", _BILLING, "An account's holder is gone."),
    EventType(ExpiryTick, EXPIRY_TICKS, "in", None, _EXPIRY, "Book what has ended; one to each partition."),
    EventType(SendDecided, SEND_RESULTS, "out", "account", None, "May it be sent, and what did it cost."),
    EventType(ReportDecided, SEND_RESULTS, "out", "account", None, "Why a report on a send gave no credit back."),
    EventType(CreditsGranted, CREDIT_EVENTS, "out", "account", None, "A billing event opened a lot."),
    EventType(CreditsReversed, CREDIT_EVENTS, "out", "account", None, "A send's charge was undone."),
    EventType(CreditsVoided, CREDIT_EVENTS, "out", "account", None, "Credits of a lot were withdrawn."),
    EventType(CreditsForfeited, CREDIT_EVENTS, "out", "account", None, "A plan change or a cap took credits of a lot."),
    EventType(CreditsExpired, CREDIT_EVENTS, "out", "account", None, "A lot ended with credits left."),
    EventType(CreditsLow, CREDIT_EVENTS, "out", "account", None, "Few credits are left."),
    EventType(CreditsExhausted, CREDIT_EVENTS, "out", "account", None, "No credits are left."),
    EventType(CreditsExpiringSoon, CREDIT_EVENTS, "out", "account", None, "A lot with credits left ends soon."),
    EventType(BillingDecided, CREDIT_EVENTS, "out", "account", None, "A billing event's answer that moves no credit."),
    EventType(TickDecided, CREDIT_EVENTS, "out", None, None, "What a tick booked in its partition."),
    EventType(DeadLettered, DEAD_LETTERS, "out", "the message's", None, "A message that can never succeed."),
    EventType(AccountBalance, BALANCES, "out", "account and lane", None, "What an account can spend, by lot."),
)
# fmt: on

ALL_TOPICS: Final = tuple(dict.fromkeys(row.topic for row in CATALOGUE))
TOPICS: Final = tuple(topic for topic in ALL_TOPICS if topic != BALANCES)  # those of every installation
INPUT_TOPICS: Final = tuple(dict.fromkeys(row.topic for row in CATALOGUE if row.direction == "in"))
OUTPUT_TOPICS: Final = tuple(topic for topic in TOPICS if topic not in INPUT_TOPICS)

_TOPIC_BY_NAME: Final = {row.name: row.topic for row in CATALOGUE}


class _Reader(NamedTuple):
    """What it takes to decode one input topic."""

    validate_json: Callable[[bytes], Event]
    models: dict[str, type[BaseModel]]
    keyed: bool
    plain_quotes: dict[str, int]
    optional: dict[str, frozenset[str]]  # the names of `data` that need not be there, by event type


def _count_plain_quotes(model: type[Event]) -> int:
    """Return how many quotation marks an event has that gives `time` and each required field once and nothing else.

    Two for each name, two more for each value that is a string, as all are but integers and `data` itself. An
    event with as many cannot have a name twice, and has no optional field.
    """
    fields = [*model.model_fields.values(), *model.model_fields["data"].annotation.model_fields.values()]  # type: ignore[union-attr]
    required = [field for field in fields if field.is_required()]
    return 4 * (len(required) + 1) - 2 - 2 * sum(field.annotation is int for field in required)


def _count_optional_quotes(data: Data, optional: frozenset[str]) -> int:
    """Return how many quotation marks the optional fields that were given in `data` have at the least."""
    given = data.model_fields_set & optional
    return 2 * len(given) + 2 * sum(isinstance(getattr(data, name), str) for name in given)


def _optional(model: type[Event]) -> frozenset[str]:
    fields = model.model_fields["data"].annotation.model_fields  # type: ignore[union-attr]
    return frozenset(name for name, field in fields.items() if not field.is_required())


def _reader(topic: str) -> _Reader:
    rows = [row for row in CATALOGUE if row.topic == topic]
    choice: Any = Union[tuple(row.model for row in rows)]  # noqa: UP007 - of as many as there are
    if len(rows) > 1:
        choice = Annotated[choice, Discriminator("type")]
    return _Reader(
        TypeAdapter(choice).validator.validate_json,
        {row.name: row.model for row in rows},
        rows[0].key is not None,
        {row.name: _count_plain_quotes(row.model) for row in rows},
        {row.name: _optional(row.model) for row in rows},
    )


_READERS: Final = {topic: _reader(topic) for topic in INPUT_TOPICS}


def decode(topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> Event:
    """Return the event that a record of an input topic holds, in structured or in binary mode.

    A tick's key is not looked at. The event's id is the request id: a `DerivedId` where its own is no UUID.

    Raises:
        Undecodable: when it holds none, whatever the bytes are; the message is fit for a person.
        KeyError: when the topic is not an input topic.

    """
    reader = _READERS[topic]
    if value is None:
        raise Undecodable(DeadLetterReason.NO_VALUE, "the record has no value")
    if len(value) > MAX_VALUE_BYTES:
        raise Undecodable(DeadLetterReason.TOO_LARGE, f"the value has {len(value)} bytes, more than {MAX_VALUE_BYTES}")
    if headers and (merged := merge_binary(headers, value)) is not None:
        return decode(topic, key, merged)
    try:
        event = reader.validate_json(value)
    except ValidationError:
        event, value = _decode_plain_form(topic, value, headers, reader)
    quotes = reader.plain_quotes[event.type]
    if event.time is None:
        quotes -= 4
    if event.datacontenttype is not None and "datacontenttype" in event.__pydantic_fields_set__:
        quotes += 4
    surplus = value.count(b'"') - quotes
    if surplus and surplus != _count_optional_quotes(event.data, reader.optional[event.type]):
        _check_names(value)
    if reader.keyed and key != (event.subject or "").encode():
        _refuse_key(key, event)
    return event


def _check_names(value: bytes) -> None:
    """Refuse an event that names anything twice, of which pydantic takes the last. Other names are extensions."""
    document = refuse_repeated_names(value)
    if isinstance(document, dict) and document.get("data_base64") is not None:
        raise Undecodable(DeadLetterReason.INVALID_EVENT, "data_base64: expected nothing beside data")


def _refuse_key(key: bytes | None, event: Event) -> NoReturn:
    if not key:
        raise Undecodable(DeadLetterReason.MISSING_KEY, "expected the account id as the record's key, got none")
    raise Undecodable(
        DeadLetterReason.KEY_IS_NOT_SUBJECT,
        f"subject: expected the record's key {excerpt(key.decode('ascii', 'backslashreplace'))},"
        f" got {excerpt(event.subject)}",
    )


def _decode_plain_form(topic: str, value: bytes, headers: Headers, reader: _Reader) -> tuple[Event, bytes]:
    """Return the event in a value that did not validate as it is, and the value that did."""
    plain = plain_form(value, any_id=reader.keyed) or PlainForm(value, None)
    try:
        event = reader.validate_json(plain.value)
    except ValidationError:
        refuse_without_version(headers)
        explain(topic, plain.value, reader.models, _TOPIC_BY_NAME)
    if plain.id is not None:
        event.__dict__["id"] = plain.id  # equal to the one that is there
    return event, plain.value


_hashers: Final = {row.name: blake2b(row.name.encode() + b"\n", digest_size=8) for row in CATALOGUE}


def fingerprint(event: Event) -> int:
    """Return a signed 64-bit hash of what an event asks for: its type and data.

    Spelling does not matter (order of names, white space, zone of a time), nor do `id`, `time` and `source`.
    A field left at its default is not hashed, so that an optional field added later changes no stored
    fingerprint.
    """
    data = event.data
    body = data.__pydantic_serializer__.to_json(data, exclude_defaults=True)
    hasher = _hashers[event.type].copy()
    hasher.update(body)
    return int.from_bytes(hasher.digest(), "big", signed=True)
