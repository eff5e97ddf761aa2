"""The envelope that every event shares (CloudEvents 1.0), and the types of its fields.

What comes in is held to the letter: no unknown field in `data`, no number written as a string, no time
without a zone. A misspelt optional field must not silently charge somebody.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

__all__ = [
    "CONTENT_TYPE",
    "EVENT_CONTENT_TYPE",
    "EVENT_HEADERS",
    "EVENT_ID_PATTERN",
    "ID_PATTERN",
    "JSON_MEDIA_TYPE",
    "MAX_VALUE_BYTES",
    "ORIGIN_HEADER",
    "AccountEvent",
    "AccountResult",
    "AnyInstant",
    "Credits",
    "Data",
    "Event",
    "Instant",
    "OpaqueId",
    "Open",
    "Reason",
    "ResultEvent",
    "encode",
]

MAX_VALUE_BYTES = 65_536
CONTENT_TYPE: Final = "application/json"
# A record with a whole event as its value says so in this header: SDKs find no event in a record without it.
EVENT_CONTENT_TYPE: Final = "application/cloudevents+json; charset=UTF-8"
EVENT_HEADERS: Final = (("content-type", EVENT_CONTENT_TYPE.encode()),)
ORIGIN_HEADER: Final = "inmail-origin"  # of a repeat: the record that it answers, as its event names the first one

# Ids reach Postgres as text: visible ASCII keeps out NUL, lone surrogates and look-alikes.
ID_PATTERN = r"^[!-~]{1,128}$"
EVENT_ID_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]{1,256}$"
SOURCE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]{1,256}$"
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110
JSON_MEDIA_TYPE = rf"^{_NAME}/({_NAME}\+)?[Jj][Ss][Oo][Nn][ \t]*(;[\t -~]{{0,200}})?$"
REASON_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]{1,200}$"
# Without this, pydantic reads "1700000000" as seconds since the epoch. Digits after microseconds are cut off.
INSTANT_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$"

_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_END = datetime(2200, 1, 1, tzinfo=UTC)


def _in_utc(instant: datetime) -> datetime:
    """Return the same instant in UTC, so that equal instants are written and hashed alike."""
    # Replacing the zone is the common case and three times as fast as converting.
    return instant.astimezone(UTC) if instant.utcoffset() else instant.replace(tzinfo=UTC)


class _InstantSchema:
    """Tells pydantic how an instant is read: an ISO 8601 string with a zone, within bounds if there are any."""

    def __init__(self, *, as_written: bool = False, **bounds: datetime) -> None:
        self._as_written = as_written
        self._bounds = bounds

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        instant = core_schema.datetime_schema(strict=False, tz_constraint="aware")
        instant.update(self._bounds)  # type: ignore[typeddict-item] # its own names: ge, lt
        last = [] if self._as_written else [core_schema.no_info_plain_validator_function(_in_utc)]
        return core_schema.json_or_python_schema(
            json_schema=core_schema.chain_schema([core_schema.str_schema(pattern=INSTANT_PATTERN), instant, *last]),
            python_schema=core_schema.chain_schema([{**instant, "strict": True}, *last]),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "date-time", "pattern": INSTANT_PATTERN}


class _MediaTypeSchema:
    """Tells pydantic how the media type of JSON is read: application/json itself, or any other, with parameters."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.union_schema(
            # The usual one first, as comparing costs less than matching.
            [core_schema.literal_schema([CONTENT_TYPE]), core_schema.str_schema(pattern=JSON_MEDIA_TYPE)],
            mode="left_to_right",
            custom_error_type="json_media_type",
            custom_error_message="a JSON media type",
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": JSON_MEDIA_TYPE}


class _OpenValues:
    """Lets the JSON Schema name a field's values without closing the list: readers are to expect others.

    Schema keywords that would list them close the list, or make a generator emit a type that refuses others; this
    keyword is no part of JSON Schema, so that generators see a string.
    """

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        closed = handler.resolve_ref_schema(handler(schema))
        values = closed["enum"] if "enum" in closed else [closed["const"]]
        return {"type": "string", "x-extensible-enum": values, "description": "Other values may come."}


Open: Final = _OpenValues()

Instant = Annotated[datetime, _InstantSchema(ge=_EARLIEST, lt=_END)]  # of what comes in: in 2000..2199
# In the zone it was written in, which costs less: nothing is decided or hashed by it.
SenderInstant = Annotated[datetime, _InstantSchema(as_written=True, ge=_EARLIEST, lt=_END)]
AnyInstant = Annotated[datetime, _InstantSchema()]  # of what follows from it: a lot outlives the period that gave it
OpaqueId = Annotated[str, Field(pattern=ID_PATTERN)]
AccountId = Annotated[
    OpaqueId,
    Field(description="The account, and the record's key: 1 to 128 visible ASCII characters, told apart by case."),
]
Reason = Annotated[str, Field(pattern=REASON_PATTERN)]
Credits = Annotated[int, Field(ge=1, le=1_000_000)]
# Read as a UUID: `decode` puts one in the place of any other id.
EventId = Annotated[
    UUID,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": EVENT_ID_PATTERN,
            "description": "Names one request. A UUID, in any spelling, is the request id itself, whatever the source;"
            " any other id gets one that is derived from source and id (UUIDv5).",
        }
    ),
]


class Data(BaseModel):
    """The body of an event that comes in."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Event(BaseModel):
    """One event that comes in. Attributes that are not declared here are CloudEvents extensions and are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    specversion: Literal["1.0"]
    id: EventId
    source: Annotated[str, Field(pattern=SOURCE_PATTERN)]
    type: str
    subject: str | None
    time: SenderInstant | None = None
    datacontenttype: Annotated[str, _MediaTypeSchema()] | None = CONTENT_TYPE
    data: Any

    _type_name: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Note the type's name where a subclass has settled it."""
        super().__pydantic_init_subclass__(**kwargs)
        names = get_args(cls.model_fields["type"].annotation)
        if names:
            (cls._type_name,) = names

    @classmethod
    def type_name(cls) -> str:
        """Return the value of `type` that marks events of this class."""
        return cls._type_name

    @classmethod
    def create(cls, **fields: Any) -> Self:  # noqa: ANN401 - the fields of the class, checked by pydantic
        """Return a new event of this class; `specversion` and `type` need not be given.

        Raises:
            ValidationError: when a field is missing or wrong.

        """
        return cls(specversion="1.0", type=cls._type_name, **fields)


class AccountEvent(Event):
    """An event about one account: `subject` is the account id, and so is the record's key."""

    subject: AccountId


class ResultEvent(Event):
    """An event that goes out: its id is a UUID, and its time is always there."""

    id: UUID
    time: SenderInstant
    datacontenttype: Literal["application/json"] | None = CONTENT_TYPE


class AccountResult(ResultEvent):
    """An event about one account that goes out."""

    subject: AccountId


def encode(event: Event) -> bytes:
    """Return an event as the value of a record."""
    return event.__pydantic_serializer__.to_json(event)
