"""What may change in a published event without a new version: a new optional field, a new member of an enum.

Everything else is a `.v2` beside the `.v1`. Readers of results must expect fields and codes that they do not know.
"""

from collections.abc import Iterator
from typing import Any

__all__ = ["breaking_changes"]

Schema = dict[str, Any]

_FREE = frozenset({"description", "title", "examples", "$defs", "$schema"})  # say nothing about what is valid
_COMPARED_APART = frozenset({"properties", "required", "enum", "items", "anyOf", "$ref"})


def breaking_changes(old: Schema, new: Schema, *, incoming: bool) -> list[str]:
    """Return what in `new` breaks somebody who relies on `old`, each as a sentence that begins with the path.

    Args:
        old: an event's JSON Schema as it was published.
        new: the same event's as it would be now.
        incoming: others write the event and we read it; otherwise the other way round.

    """
    return list(_Comparison(old, new, incoming=incoming).changes(old, new, "event"))


class _Comparison:
    """Walks two schemas side by side; `$ref`s lead into their own document."""

    def __init__(self, old: Schema, new: Schema, *, incoming: bool) -> None:
        self._old_definitions = old.get("$defs", {})
        self._new_definitions = new.get("$defs", {})
        self._incoming = incoming

    def changes(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        old, new = _follow(old, self._old_definitions), _follow(new, self._new_definitions)
        for keyword in sorted((old.keys() | new.keys()) - _FREE - _COMPARED_APART):
            if old.get(keyword) != new.get(keyword):
                yield f"{path}: {keyword} was {old.get(keyword)}, is {new.get(keyword)}"
        yield from self._enum(old, new, path)
        yield from self._fields(old, new, path)
        if "items" in old and "items" in new:
            yield from self.changes(old["items"], new["items"], f"{path}[]")
        yield from self._choices(old.get("anyOf", []), new.get("anyOf", []), path)

    def _enum(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        if ("enum" in old) != ("enum" in new):
            yield f"{path}: is {'no longer' if 'enum' in old else 'now'} an enum"
        for value in old.get("enum", []):
            if value not in new.get("enum", [value]):
                yield f"{path}: {value} is no longer a value"

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


def _follow(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    reference = schema.get("$ref")
    return schema if reference is None else definitions[reference.removeprefix("#/$defs/")] | schema
