"""The forms in which a CloudEvent comes in a Kafka record, each brought to the one that is decoded: structured JSON.

In structured mode the value is the whole event, in binary mode it is the event's data and the attributes are headers
(`ce_id`, `ce_source`, ...). A content type that begins with application/cloudevents says structured; otherwise the
attribute `ce_specversion` says binary; a record with neither is taken for structured, whatever other headers it has. In
structured mode JSON may stand in `data_base64`, and in both an id may be any string.
"""

import json
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from pydantic_core import SchemaValidator, ValidationError, core_schema, from_json

from schemas.dead_letters import DeadLetterReason
from schemas.envelope import EVENT_ID_PATTERN
from schemas.ids import DerivedId, derive_id
from schemas.undecodable import Undecodable, excerpt, explain_unreadable, refuse_repeated_names

__all__ = [
    "Headers",
    "PlainForm",
    "merge_binary",
    "parse_uuid",
    "plain_form",
    "read_attributes",
    "read_request_id",
    "refuse_without_version",
]

Headers = Sequence[tuple[str, bytes | None]]

CONTENT_TYPE: Final = "content-type"
_STRUCTURED: Final = "application/cloudevents"
# As most producers spell it.
_USUAL: Final = frozenset(
    f"{_STRUCTURED}+json{charset}".encode() for charset in ("", "; charset=utf-8", "; charset=UTF-8", ";charset=utf-8")
)
_ATTRIBUTES: Final = {
    f"ce_{name}": name for name in ("specversion", "id", "source", "type", "subject", "time", "datacontenttype")
}
_VERSION: Final = "ce_specversion"  # the attribute that marks binary mode
_LONGEST_MEDIA_TYPE: Final = 256  # bytes that are looked at for the mode
_EVENT_ID: Final = re.compile(EVENT_ID_PATTERN)
_UUIDS: Final = SchemaValidator(core_schema.uuid_schema())
_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})


def merge_binary(headers: Headers, value: bytes) -> bytes | None:
    """Return an event of binary mode as structured JSON; None where the record is in structured mode.

    Raises:
        Undecodable: when the content type is one that is not read, or the record is in binary mode and no event.

    """
    for name, content in headers:  # of each record of structured mode: nothing is made here
        if name == CONTENT_TYPE and content in _USUAL:
            return None
    attributes = _binary_attributes(headers)
    return None if attributes is None else _splice(attributes, value)


def refuse_without_version(headers: Headers) -> None:
    """Refuse a record that is no event in structured mode and lacks one header to be read in binary mode.

    Raises:
        Undecodable: when a header names the event's type, and none its `specversion`.

    """
    given = {name for name, content in headers if content is not None}
    if "ce_type" in given and _VERSION not in given:
        raise Undecodable(DeadLetterReason.INVALID_EVENT, f"header {_VERSION}: required in binary mode, but missing")


def read_attributes(headers: Headers, value: bytes | None) -> Mapping[str, Any]:
    """Return the attributes of an event, which need not be a valid one; none for what is no event."""
    try:
        document = _binary_attributes(headers)
        document = from_json(value or b"") if document is None else document
    except (Undecodable, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def read_request_id(headers: Headers, value: bytes | None) -> UUID | None:
    """Return the request id of an event, which need not be a valid one; None for what has none."""
    attributes = read_attributes(headers, value)
    return parse_uuid(attributes.get("id")) or _derive(attributes)


def _binary_attributes(headers: Headers) -> dict[str, Any] | None:
    """Return the attributes of an event of binary mode; None where the record is in structured mode."""
    given: dict[str, bytes] = {}
    twice = None
    for name, content in headers:
        # A header without content is as good as absent.
        if content is None or not (name == CONTENT_TYPE or name in _ATTRIBUTES):
            continue
        if name == CONTENT_TYPE and _is_structured(content[:_LONGEST_MEDIA_TYPE]):
            return None
        if given.setdefault(name, content) != content:
            twice = name
    if _VERSION not in given:
        return None
    if twice is not None:
        raise Undecodable(DeadLetterReason.INVALID_EVENT, f"header {twice}: appears more than once")
    content_type = given.pop(CONTENT_TYPE, None)
    attributes = {_ATTRIBUTES[name]: _text(name, content) for name, content in given.items()}
    if content_type is not None:
        attributes["datacontenttype"] = _text(CONTENT_TYPE, content_type)
        _refuse_other_charsets(attributes["datacontenttype"])
    return attributes


@lru_cache(maxsize=256)
def _is_structured(content_type: bytes) -> bool:
    """Return whether a content type says that the value is an event.

    Raises:
        Undecodable: when it says that it is several, or one in another format than JSON.

    """
    media_type = content_type.decode("ascii", "backslashreplace").partition(";")[0].strip().lower()
    if not media_type.startswith(_STRUCTURED):
        return False
    format_ = media_type.removeprefix(_STRUCTURED)
    if format_.startswith("-batch"):
        raise Undecodable(
            DeadLetterReason.INVALID_EVENT,
            f"content-type: {excerpt(media_type)} is batched mode, which is not read: send each event as a record",
        )
    if format_ not in {"", "+json"}:
        raise Undecodable(
            DeadLetterReason.INVALID_EVENT,
            f"content-type: {excerpt(media_type)} is not read: expected application/cloudevents+json, or binary mode",
        )
    return True


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(
            DeadLetterReason.INVALID_EVENT, f"header {name}: byte {error.start + 1} is not UTF-8"
        ) from None


def _refuse_other_charsets(media_type: str) -> None:
    for parameter in media_type.split(";")[1:]:
        name, _, charset = parameter.partition("=")
        if name.strip().lower() == "charset" and charset.strip().strip('"').lower() not in _CHARSETS:
            raise Undecodable(
                DeadLetterReason.INVALID_EVENT, f"content-type: expected charset utf-8, got {excerpt(charset.strip())}"
            )


def _splice(attributes: Mapping[str, Any], data: bytes) -> bytes:
    """Return attributes and data, which may be any bytes, as structured JSON.

    Raises:
        Undecodable: when the data is not one JSON value.

    """
    try:
        from_json(data, allow_inf_nan=False)  # so that it can end neither the data nor the event
    except ValueError as error:
        raise explain_unreadable(data, str(error)) from None
    return orjson.dumps(attributes)[:-1] + b',"data":' + data + b"}"


class PlainForm(NamedTuple):
    """A structured event as it is decoded: its data in `data`, its id a UUID."""

    value: bytes
    id: DerivedId | None  # what stands for an id that is no UUID


def plain_form(value: bytes, *, any_id: bool) -> PlainForm | None:
    """Return the plain form of a structured event with `data_base64` or an id that is no UUID; None for any other.

    Args:
        value: the event.
        any_id: whether its id need not be a UUID.

    Raises:
        Undecodable: when its names repeat, or `data_base64` holds no JSON.

    """
    try:
        document = orjson.loads(value)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    changed = False
    if document.get("data_base64") is not None and "data" not in document:
        value, document = _inline_base64(value)
        changed = True
    derived = None
    if any_id and parse_uuid(document.get("id")) is None and (derived := _derive(document)) is not None:
        value = _with_id(value, derived)
        changed = True
    return PlainForm(value, derived) if changed else None


def _inline_base64(value: bytes) -> tuple[bytes, dict[str, Any]]:
    document: Any = refuse_repeated_names(value)  # as pydantic and orjson take the last of a name
    attributes = {name: document[name] for name in _ATTRIBUTES.values() if name in document}
    try:
        data = b64decode(document["data_base64"], validate=True)
        return _splice(attributes, data), attributes
    except (ValueError, TypeError):  # TypeError: for what is neither text nor, as an attribute, written by orjson
        problem = "expected base64 of JSON"
    except Undecodable as error:
        problem = error.error
    raise Undecodable(DeadLetterReason.INVALID_EVENT, f"data_base64: {problem}")


def _with_id(value: bytes, derived: DerivedId) -> bytes:
    """Return an event with another id. Mostly only the id's bytes change, and the rest can be checked as it came."""
    written = orjson.dumps(derived.original)
    if value.count(written) == 1:
        replaced = value.replace(written, f'"{derived}"'.encode())
        if orjson.loads(replaced)["id"] == str(derived):
            return replaced
    document: Any = refuse_repeated_names(value)
    known = {name: document[name] for name in (*_ATTRIBUTES.values(), "data") if name in document}
    return json.dumps(known | {"id": str(derived)}).encode()


def parse_uuid(text: object) -> UUID | None:
    """Return the UUID that a text is, as an event's id is read."""
    try:
        found: UUID = _UUIDS.validate_python(text)
    except ValidationError:
        return None
    return found


def _derive(attributes: Mapping[str, Any]) -> DerivedId | None:
    """Return what stands for an id that is no UUID; None for what no id can be."""
    id_, source = attributes.get("id"), attributes.get("source")
    if not isinstance(id_, str) or not _EVENT_ID.fullmatch(id_):
        return None
    return derive_id(source if isinstance(source, str) else "", id_)
