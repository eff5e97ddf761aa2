"""What may change in a published event without a new version: a new optional field, a new value of an open enum.

An open enum (`x-extensible-enum`) names the values that are known; a closed one (`enum`, `const`) the only ones there
are, so that whoever generated a type from it fails on another. What comes in may also be taken more widely than
before. A title stays: generators make the name of a class of it. Everything else is a `.v2` beside the `.v1`.
"""

import re
from collections.abc import Iterator
from typing import Any

__all__ = ["breaking_changes", "moved_records"]

Schema = dict[str, Any]

_OPEN = "x-extensible-enum"
_FREE = frozenset({"description", "title", "examples", "$defs", "$schema"})  # say nothing about what is valid
_COMPARED_APART = frozenset({"properties", "required", "enum", "const", _OPEN, "items", "anyOf", "$ref"})
_A_UUID = "0b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a10"
_LOWER, _UPPER = frozenset({"minLength", "minimum"}), frozenset({"maxLength", "maximum"})
_LIMITS = frozenset({"format", "pattern"}) | _LOWER | _UPPER  # without one, more is valid


def breaking_changes(old: Schema, new: Schema, *, incoming: bool) -> list[str]:
    """Return what in `new` breaks somebody who relies on `old`, each as a sentence that begins with the path.

    Args:
        old: an event's JSON Schema as it was published.
        new: the same event's as it would be now.
        incoming: others write the event and we read it; otherwise the other way round.

    """
    return list(_Comparison(old, new, incoming=incoming).changes(old, new, "event"))


def moved_records(old: Schema, new: Schema) -> list[str]:
    """Return what two AsyncAPI documents tell differently of the records of an event that both have.

    Whoever reads or writes them relies on the topic, the key, the headers and the consumer group beside the schema. A
    new header is compatible, and so are better descriptions.
    """
    before, after = _records(old), _records(new)
    return [
        f"{name}: {change}"
        for name, record in before.items()
        if name in after
        for change in (*_moves(record, after[name]), *_header_changes(record, after[name]))
    ]


def _moves(old: Schema, new: Schema) -> Iterator[str]:
    for what in ("address", "key", "groupId"):
        if old[what] != new[what]:
            yield f"{what} was {old[what]}, is {new[what]}"


def _header_changes(old: Schema, new: Schema) -> Iterator[str]:
    return _Comparison({}, {}, incoming=False).changes(old["headers"], new["headers"], "headers")


def _records(document: Schema) -> dict[str, Schema]:
    """Return what an AsyncAPI document tells of each event's records, by the event's name."""
    messages = document.get("components", {}).get("messages", {})
    groups = {
        operation["channel"]["$ref"]: operation["bindings"]["kafka"].get("groupId", {}).get("const")
        for operation in document.get("operations", {}).values()
    }
    return {
        name: {
            "address": channel["address"],
            "key": _without_words(messages[name]["bindings"]["kafka"].get("key")),
            "headers": messages[name].get("headers", {}),
            "groupId": groups.get(f"#/channels/{place}"),
        }
        for place, channel in document.get("channels", {}).items()
        for name in channel["messages"]
    }


def _without_words(schema: Schema | None) -> Schema | None:
    return schema and {name: value for name, value in schema.items() if name not in _FREE}


class _Comparison:
    """Walks two schemas side by side; `$ref`s lead into their own document."""

    def __init__(self, old: Schema, new: Schema, *, incoming: bool) -> None:
        self._old_definitions = old.get("$defs", {})
        self._new_definitions = new.get("$defs", {})
        self._incoming = incoming

    def changes(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        old, new = _follow(old, self._old_definitions), _follow(new, self._new_definitions)
        if self._takes_more(old, new, path):
            return
        if "title" in old and old["title"] != new.get("title"):
            yield f"{path}: title was {old['title']}, is {new.get('title')}"
        for keyword in sorted((old.keys() | new.keys()) - _FREE - _COMPARED_APART):
            if old.get(keyword) != new.get(keyword) and not (self._incoming and _is_wider(keyword, old, new)):
                yield f"{path}: {keyword} was {old.get(keyword)}, is {new.get(keyword)}"
        yield from self._values(old, new, path)
        yield from self._fields(old, new, path)
        if "items" in old and "items" in new:
            yield from self.changes(old["items"], new["items"], f"{path}[]")
        elif "items" in new or ("items" in old and not self._incoming):  # without them a list may hold anything
            yield f"{path}: says {'now' if 'items' in new else 'no longer'} what its items are"
        yield from self._choices(old.get("anyOf", []), new.get("anyOf", []), path)

    def _takes_more(self, old: Schema, new: Schema, path: str) -> bool:
        """Return whether what comes in may be what it was or something else: one more alternative, a wider form."""
        if not self._incoming:
            return False
        if "anyOf" not in old and "anyOf" in new:
            return any(not list(self.changes(old, choice, path)) for choice in new["anyOf"])
        only = {"const": old.get("const"), "format": _A_UUID if old.get("format") == "uuid" else None}
        samples = [only[keyword] for keyword in old.keys() - _FREE - {"type"} if only.get(keyword)]
        return (
            len(samples) == 1 == len(old.keys() - _FREE - {"type"})
            and new.keys() - _FREE == {"type", "pattern"}
            and new["type"] == old.get("type")
            and re.search(new["pattern"], str(samples[0])) is not None
        )

    def _values(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        """Yield what became of the values that a field may have."""
        closed, closed_now = _closed(old), _closed(new)
        values, values_now = closed or old.get(_OPEN), closed_now or new.get(_OPEN)
        if values is None or values_now is None:
            if values != values_now:
                yield f"{path}: is {'now' if values is None else 'no longer'} an enum"
            return
        if closed_now and not closed:
            yield f"{path}: is now a closed enum"
        for value in values:
            if value not in values_now:
                yield f"{path}: {value} is no longer a value"
        if closed and (closed_now or not self._incoming):  # opened is one step, and a new value the next
            for value in values_now:
                if value not in values:
                    yield f"{path}: {value} is a new value of a closed enum"

    def _fields(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
        for name, field in old_fields.items():
            if name in new_fields:
                yield from self.changes(field, new_fields[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}: was removed or renamed"
        old_required, new_required = set(old.get("required", [])), set(new.get("required", []))
        if self._incoming:
            for name in sorted(new_required - old_required):
                yield f"{path}.{name}: is now required"
        else:
            for name in sorted(old_required & new_fields.keys() - new_required):
                yield f"{path}.{name}: may now be missing"

    def _choices(self, old: list[Schema], new: list[Schema], path: str) -> Iterator[str]:
        if len(old) != len(new):
            yield f"{path}: has {len(new)} alternatives, had {len(old)}"
        else:
            for one, other in zip(old, new, strict=True):
                yield from self.changes(one, other, path)


def _is_wider(keyword: str, old: Schema, new: Schema) -> bool:
    """Tell whether all that a limit let through before is still valid. Of two patterns nobody can tell."""
    if keyword not in _LIMITS or keyword not in new:
        return keyword in _LIMITS
    if keyword not in old:
        return False
    if keyword in _UPPER:
        return bool(new[keyword] >= old[keyword])
    return keyword in _LOWER and bool(new[keyword] <= old[keyword])


def _closed(schema: Schema) -> list[Any] | None:
    values: list[Any] | None = [schema["const"]] if "const" in schema else schema.get("enum")
    return values


def _follow(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return a schema with what it refers to, and with alternatives where it names several types: it is the same."""
    reference = schema.get("$ref")
    if reference is not None:
        return definitions[reference.removeprefix("#/$defs/")] | schema
    types = schema.get("type")
    if not isinstance(types, list):
        return schema
    outside = {name: schema[name] for name in schema.keys() & {"default", "description"}}
    inside = {name: value for name, value in schema.items() if name not in outside}
    return outside | {"anyOf": [{"type": each} if each == "null" else inside | {"type": each} for each in types]}
