"""Messages that can never succeed: kept as they were read, with the reason."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, WithJsonSchema
from typing_extensions import TypedDict

from schemas.envelope import OpaqueId, ResultEvent
from schemas.outgoing import Count, write_result

__all__ = [
    "DeadLetterCut",
    "DeadLetterHeader",
    "DeadLetterOrigin",
    "DeadLetterReason",
    "DeadLettered",
    "DeadLetteredData",
    "dead_lettered",
]

Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class DeadLetterReason(StrEnum):
    """Why a message can never succeed."""

    NO_VALUE = "no_value"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    WRONG_TOPIC = "wrong_topic"
    INVALID_EVENT = "invalid_event"
    MISSING_KEY = "missing_key"
    KEY_IS_NOT_SUBJECT = "key_is_not_subject"
    UNKNOWN_PLAN = "unknown_plan"
    WRONG_PARTITION = "wrong_partition"  # the books of its account's partition are on another Postgres server
    PRODUCER_TIME = "producer_time"  # its time is its producer's word, where the broker's counts
    TIME_FAR_AHEAD = "time_far_ahead"  # an operator has set it aside: its broker's clock was wrong
    REFUSED_BY_DATABASE = "refused_by_database"  # well-formed, and a net below the rules would not take it


# Read as text: workers of a later version may write reasons that this one does not know.
_AnyReason = Annotated[
    str,
    Field(pattern=r"^[!-~]{1,64}$"),
    WithJsonSchema(
        {"type": "string", "x-extensible-enum": list(DeadLetterReason), "description": "Other values may come."}
    ),
]


class DeadLetterOrigin(TypedDict):
    """Where the message was read, and its record's time."""

    topic: str
    partition: Count
    offset: Count
    timestamp: Annotated[
        AwareDatetime,
        Field(description="When the broker took the record; where producer_time, the time that its producer wrote."),
    ]


class DeadLetterHeader(TypedDict):
    """One of the message's record headers."""

    key: str
    value_base64: Base64 | None


class DeadLetterCut(TypedDict):
    """What a message that is too large to be kept was: its beginning is in `value_base64`, the rest at its origin."""

    value_size: Annotated[int, Field(ge=0, description="Bytes of the whole value.")]
    value_sha256: Annotated[str, Field(description="Of the whole value, in hexadecimal.")]
    headers: Annotated[int, Field(ge=0, description="How many headers the message had; those that fit are kept.")]


class DeadLetteredData(TypedDict):
    """The message as it was read, and why it was refused."""

    reason: _AnyReason
    error: Annotated[str, Field(max_length=1000)]
    origin: DeadLetterOrigin
    key_base64: Base64 | None
    value_base64: Base64 | None
    headers: list[DeadLetterHeader]
    cut: Annotated[DeadLetterCut | None, Field(description="Where the message was too large to be kept whole.")]


class DeadLettered(ResultEvent):
    """A message that can never succeed. Its time is its origin's; its subject is its key, if an account id."""

    type: Literal["inmail.message.dead-lettered.v1"]
    subject: Annotated[OpaqueId | None, Field(default=None, exclude_if=lambda subject: subject is None)]
    time: AwareDatetime
    data: DeadLetteredData


def dead_lettered(event_id: str, account_id: str | None, data: DeadLetteredData) -> bytes:
    """Return a message that can never succeed as the value of a record."""
    return write_result("inmail.message.dead-lettered.v1", event_id, account_id, data["origin"]["timestamp"], data)
