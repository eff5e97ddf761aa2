"""Why a record cannot be decoded, in words that name the field, what was expected and what was there.

Runs only once decoding has failed, so it may take its time. What it says is bounded, whatever the input is.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, Self

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from schemas.dead_letters import DeadLetterReason
from schemas.envelope import EVENT_ID_PATTERN, ID_PATTERN, INSTANT_PATTERN, REASON_PATTERN, SOURCE_PATTERN

__all__ = ["Undecodable", "excerpt", "explain", "explain_unreadable", "refuse_repeated_names"]

_MAX_EXCERPT = 64
_MAX_ERRORS = 5
_MAX_TEXT = 1000

_PREFIX_BYTES = 5  # a zero byte and the schema's id

_A_TIME = "a time with a zone from 2000 to 2199, like 2026-01-31T09:30:00Z"
_PATTERNS = {
    ID_PATTERN: "1 to 128 visible ASCII characters",
    SOURCE_PATTERN: "1 to 256 characters without control characters",
    REASON_PATTERN: "1 to 200 characters without control characters",
    INSTANT_PATTERN: _A_TIME,
}
_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "an integer",
    "greater_than_equal": "an integer of at least {ge}",
    "less_than_equal": "an integer of at most {le}",
    "no_credits": "an integer other than 0",
    "string_type": "a string",
    "bool_type": "true or false",
    "none_required": "nothing",
    "literal_error": "{expected}",
    "json_media_type": "a media type of JSON, like application/json",
    "uuid_type": "a UUID",
    "uuid_parsing": "a UUID",
    "model_type": "an object",
    "timezone_aware": _A_TIME,
    "datetime_type": _A_TIME,
    "datetime_parsing": _A_TIME,
    "datetime_from_date_parsing": _A_TIME,
}
# What the reader of JSON says, by how it begins, and what that means.
_NOT_JSON = {
    "EOF while parsing": "it ends in the middle",
    "expected ident": "expected true, false or null",
    "expected value": "expected a value",
    "trailing characters": "something follows its end",
    "trailing comma": "a comma too many",
    "key must be a string": "expected the name of a member, in quotation marks",
    "invalid number": "a number that is none",
    "invalid escape": "an escape that JSON does not have",
    "unexpected end of hex escape": "an escape that is cut short",
    "control character": "a control character inside a string",
}
_TOO_DEEP = "nested deeper than 201 levels"
_HALF_A_PAIR = "a string has half of a surrogate pair, which is no character"
_EVENT_ID = re.compile(EVENT_ID_PATTERN)
_NOT_READ = {"recursion limit": _TOO_DEEP, "number out of range": "a number has more than 4,300 digits"}


class Undecodable(Exception):  # noqa: N818 - a verdict on a record, not a fault
    """The record can never be decided. `reason` is for machines, `error` for people."""

    def __init__(self, reason: DeadLetterReason, error: str) -> None:
        super().__init__(reason, error)
        self.reason = reason
        self.error = _cut(error, _MAX_TEXT)

    def without_frames(self) -> Self:
        """Return this error without its traceback and the errors before it, for keeping.

        These hold the frames of whoever called, with all their variables: a batch of records, and what keeps the error.
        That is a cycle, which stays in memory until Python looks for cycles.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


def explain(topic: str, value: bytes, models: Mapping[str, type[BaseModel]], topics: Mapping[str, str]) -> NoReturn:
    """Raise Undecodable for a value that did not validate.

    Args:
        topic: where it was read.
        value: the record's value.
        models: the event types that this topic may hold, by name.
        topics: the topic of every known event type, by name.

    Raises:
        Undecodable: always.

    """
    try:
        from_json(value, allow_inf_nan=False)  # bounds depth too, so that nothing below runs out of stack
    except ValueError as error:
        raise explain_unreadable(value, str(error)) from None
    document = refuse_repeated_names(value)
    if isinstance(document, list):
        raise Undecodable(
            DeadLetterReason.INVALID_EVENT,
            f"expected an object, got {excerpt(document)}: batched mode is not read, send each event as a record",
        )
    if not isinstance(document, dict):
        raise Undecodable(DeadLetterReason.INVALID_EVENT, f"expected an object, got {excerpt(document)}")
    name = document.get("type")
    if not isinstance(name, str):
        got = excerpt(name) if "type" in document else "nothing"
        raise Undecodable(DeadLetterReason.INVALID_EVENT, f"type: expected a string, got {got}")
    if name not in models:
        _refuse_type(topic, name, topics)
    try:
        models[name].model_validate_json(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    else:
        raise AssertionError("explain was asked about a value that validates")
    raise Undecodable(DeadLetterReason.INVALID_EVENT, _describe_all(problems))


def refuse_repeated_names(value: bytes) -> object:
    """Return the JSON document. No object may name a member twice, as nobody can say which is meant.

    Raises:
        Undecodable: when the value is not JSON, or repeats a name.

    """
    try:
        return _load(value, _distinct)
    except ValueError as error:
        raise Undecodable(DeadLetterReason.NOT_JSON, f"not JSON: {_plainly(value, str(error))}") from None


def _load(value: bytes, of_pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> object:
    return json.loads(value.decode(), object_pairs_hook=of_pairs, parse_constant=_refuse_constant, parse_int=_number)


def explain_unreadable(value: bytes, refusal: str) -> Undecodable:
    """Return what to say of a value that the reader of JSON refused: that it is none, or is more than is read."""
    told = None
    try:
        _load(value, dict)
    except RecursionError:
        told = _TOO_DEEP
    except ValueError:
        told = _TOO_DEEP if refusal.startswith("recursion limit") else None
    else:
        told = next((words for sign, words in _NOT_READ.items() if refusal.startswith(sign)), _HALF_A_PAIR)
    if told is not None:
        return Undecodable(DeadLetterReason.INVALID_EVENT, told)
    return Undecodable(DeadLetterReason.NOT_JSON, f"not JSON: {_plainly(value, refusal)}")


def _plainly(value: bytes, refusal: str) -> str:
    """Return in plain words why a value is not JSON."""
    if not value:
        return "the value is empty"
    if value[0] == 0 and len(value) > _PREFIX_BYTES:
        number = int.from_bytes(value[1:_PREFIX_BYTES])
        return (
            f"it begins with the prefix of a schema registry's serializer (a zero byte, schema id {number}), which is"
            " not read: send plain JSON, with the schema's id in a header if anywhere"
        )
    if value.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte order mark"
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} is not UTF-8"
    what, _, place = refusal.partition(" at line ")
    words = next((words for sign, words in _NOT_JSON.items() if what.startswith(sign)), what)
    return words + (f" (line {place.replace(' column ', ', column ')})" if place else "")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise Undecodable(DeadLetterReason.INVALID_EVENT, f"{_step(twice)}: appears more than once")
    return members


def _number(text: str) -> int | float:
    # Python refuses to read or write integers of more than 4,300 digits.
    return int(text) if len(text) < _MAX_TEXT else float(text)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no value of JSON")


def _refuse_type(topic: str, name: str, topics: Mapping[str, str]) -> NoReturn:
    """Raise Undecodable for an event type that does not belong on this topic."""
    if name in topics:
        raise Undecodable(DeadLetterReason.WRONG_TOPIC, f"type: {name} belongs on {topics[name]}, not on {topic}")
    stem, _, version = name.rpartition(".")
    if version[:1] == "v" and version[1:].isdecimal():
        known = sorted(other for other in topics if other.rpartition(".")[0] == stem)
        if known:
            raise Undecodable(
                DeadLetterReason.UNKNOWN_VERSION, f"type: expected {' or '.join(known)}, got {excerpt(name)}"
            )
    raise Undecodable(DeadLetterReason.UNKNOWN_TYPE, f"type: {excerpt(name)} is not a known event type")


def excerpt(value: object) -> str:
    """Return at most 64 visible ASCII characters that show a value from the input."""
    return _cut(json.dumps(value).replace("\x7f", "\\u007f"), _MAX_EXCERPT)  # the one that json leaves as it is


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _describe_all(problems: list[ErrorDetails]) -> str:
    told = [_describe(problem) for problem in problems[:_MAX_ERRORS]]
    if len(problems) > _MAX_ERRORS:
        told.append(f"and {len(problems) - _MAX_ERRORS} more")
    return "; ".join(told)


def _describe(problem: ErrorDetails) -> str:
    """Return one error as `path: expected this, got that`."""
    kind, path = problem["type"], _path(problem["loc"])
    if kind == "missing":
        return f"{path}: required, but missing"
    if kind == "extra_forbidden":
        return f"{path}: not a field of this event"
    context = problem.get("ctx", {})
    if kind == "string_pattern_mismatch" and context["pattern"] in _PATTERNS:
        expected = _PATTERNS[context["pattern"]]
    elif kind in {"greater_than_equal", "less_than"} and not isinstance(problem["input"], int):
        expected = _A_TIME
    elif kind == "uuid_parsing" and path == "id" and not _EVENT_ID.fullmatch(problem["input"]):
        expected = _PATTERNS[SOURCE_PATTERN]
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind].format(**context)
    else:
        return f"{path}: {problem['msg']}"
    return f"{path}: expected {expected}, got {excerpt(problem['input'])}"


def _path(steps: Iterable[str | int]) -> str:
    return ".".join(_step(str(step)) for step in steps) or "event"


def _step(name: str) -> str:
    return name if name.isidentifier() and name.isascii() and len(name) <= _MAX_EXCERPT else excerpt(name)
