"""What may change in the read API without breaking a client: new paths, optional parameters, and members of answers.

The committed OpenAPI document is what clients were promised; what the code says now is compared with it as published
events are compared with theirs.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from schemas.compatibility import breaking_changes

__all__ = ["broken_promises"]

_SCHEMAS: Final = "#/components/schemas/"

Json = dict[str, Any]


def broken_promises(old: Json, new: Json) -> list[str]:
    """Return what in the OpenAPI document `new` breaks a client of `old`: sentences that begin with the place.

    Paths, methods, parameters and statuses of success stay; no parameter becomes required or takes less; schemas keep
    their names, which generated clients have, and change as those of results do.
    """
    return [*_schema_changes(old, new), *_path_changes(old["paths"], new["paths"])]


def _schema_changes(old: Json, new: Json) -> Iterator[str]:
    before, after = _definitions(old), _definitions(new)
    for name in before:
        if name not in after:
            yield f"{name}: was removed or renamed"
            continue
        for change in breaking_changes(_schema(name, before), _schema(name, after), incoming=False):
            yield name + change.removeprefix("event")


def _definitions(document: Json) -> Json:
    """Return the schemas of a document, with references as the comparison follows them."""
    text = json.dumps(document["components"]["schemas"])
    found: Json = json.loads(text.replace(_SCHEMAS, "#/$defs/"))
    return found


def _schema(name: str, definitions: Json) -> Json:
    return {"$ref": f"#/$defs/{name}", "$defs": definitions}


def _path_changes(old: Json, new: Json) -> Iterator[str]:
    for path, operations in old.items():
        for method, operation in operations.items():
            if (now := new.get(path, {}).get(method)) is None:
                yield f"{method} {path}: was removed or renamed"
            else:
                yield from (f"{method} {path}: {change}" for change in _operation_changes(operation, now))


def _operation_changes(old: Json, new: Json) -> Iterator[str]:
    if old["operationId"] != new["operationId"]:
        yield f"operationId was {old['operationId']}, is {new['operationId']}"
    for status in (each for each in old["responses"] if each < "400"):
        if old["responses"][status].get("content") != new["responses"].get(status, {}).get("content"):
            yield f"{status} has another body"
    before, after = _parameters(old), _parameters(new)
    for place, parameter in before.items():
        if (now := after.get(place)) is None:
            yield f"parameter {place}: was removed or renamed"
            continue
        for change in breaking_changes(parameter["schema"], now["schema"], incoming=True):
            yield f"parameter {place}{change.removeprefix('event')}"
    for place, parameter in after.items():
        if parameter.get("required") and not before.get(place, {}).get("required"):
            yield f"parameter {place}: is now required"


def _parameters(operation: Json) -> Json:
    return {f"{each['name']} in {each['in']}": each for each in operation["parameters"]}
