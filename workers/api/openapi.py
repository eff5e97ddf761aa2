"""The OpenAPI document of the read API, from its table of operations.

python -m workers.api.openapi           write it
python -m workers.api.openapi --check   fail if it is stale

A change that would break a client of the committed document is refused either way.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from workers.api.bodies import ProblemBody
from workers.api.compatibility import broken_promises
from workers.api.operations import HEALTH_PATH, OPERATIONS, ApiOperation
from workers.api.parameters import Parameter
from workers.api.problems import MEDIA_TYPE, ProblemKind

__all__ = ["FILE", "main", "openapi", "rendered"]

FILE: Final = Path(__file__).with_name("openapi.json")
_OF_ALL: Final = (  # whatever is asked: by whom and under which name, and what the database cannot answer
    ProblemKind.WRONG_HOST,
    ProblemKind.INTERNAL,
    ProblemKind.BUSY,
    ProblemKind.DATABASE_AWAY,
    ProblemKind.DATABASE_LOCKED,
    ProblemKind.DATABASE_REFUSED,
    ProblemKind.NOT_SET_UP,
)
_SCHEMAS: Final = "#/components/schemas/"
_REFERENCE: Final = re.compile(r"(#/components/schemas/)(\w+)")

Json = dict[str, Any]


def openapi() -> Json:
    """Return the OpenAPI 3.1 document."""
    bodies: list[type[BaseModel]] = [*(operation.body for operation in OPERATIONS), ProblemBody]
    _, schemas = models_json_schema([(body, "serialization") for body in bodies], ref_template=_SCHEMAS + "{model}")
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "InMail credit ledger: read API",
            "version": "1.0.0",
            "description": "What an application may ask about credits. Nothing is changed here: requests go over Kafka."
            " Members and values may be added; readers ignore what they do not know.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": {operation.path: {"get": _operation(operation)} for operation in OPERATIONS},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {_name(name): _plain(schema) for name, schema in sorted(schemas["$defs"].items())},
        },
    }
    named: Json = json.loads(_REFERENCE.sub(lambda found: found[1] + _name(found[2]), json.dumps(document)))
    return named


def _name(model: str) -> str:
    """Return a model's name as generated clients have it."""
    return model.removesuffix("Body")


def _operation(operation: ApiOperation) -> Json:
    shown: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [_parameter(each) for each in operation.parameters],
        "responses": _responses(operation),
    }
    if operation.has_etag:
        shown["parameters"].append(
            {
                "name": "If-None-Match",
                "in": "header",
                "description": "The ETag of an answer that you have: 304 while it holds.",
                "schema": {"type": "string"},
            }
        )
    if operation.path == HEALTH_PATH:
        shown["security"] = []
    return shown


def _parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _responses(operation: ApiOperation) -> Json:
    etag = {"ETag": {"description": "Changes when the answer does; weak.", "schema": {"type": "string"}}}
    good: Json = {
        "description": "The answer.",
        "content": {"application/json": {"schema": {"$ref": _SCHEMAS + operation.body.__name__}}},
    }
    responses: Json = {"200": good}
    if operation.has_etag:
        good["headers"] = etag
        responses["304"] = {"description": "The answer that If-None-Match names still holds.", "headers": etag}
    kinds = (*operation.problems, *_OF_ALL)
    for status in sorted({kind.value.status for kind in kinds}):
        responses[str(status)] = _problem([kind for kind in kinds if kind.value.status == status])
    return responses


def _problem(kinds: Iterable[ProblemKind]) -> Json:
    shown: Json = {
        "description": "; ".join(f"`{kind.urn}`: {kind.value.title}" for kind in kinds) + ".",
        "content": {MEDIA_TYPE: {"schema": {"$ref": _SCHEMAS + ProblemBody.__name__}}},
    }
    if any(kind.value.retry_after is not None for kind in kinds):
        shown["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return shown


def _plain(schema: Json) -> Json:
    """Return a schema without the titles that pydantic makes of field names: they say nothing new."""
    kept = {name: value for name, value in schema.items() if name != "title"}
    members = kept.get("properties", {})
    return kept | {
        "properties": {name: {k: v for k, v in each.items() if k != "title"} for name, each in members.items()}
    }


def rendered() -> str:
    """Return the text of the committed document."""
    return json.dumps(openapi(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.api.openapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the document is stale")
    is_check = parser.parse_args(arguments).check
    published = FILE.read_text(encoding="utf-8") if FILE.exists() else None
    if published is not None and (broken := broken_promises(json.loads(published), openapi())):
        sys.stderr.write(
            "\n".join(["these break clients of the read API; make a path of /v2 beside the old:", *broken, ""])
        )
        return 1
    stale = published != rendered()
    if is_check and stale:
        sys.stderr.write(f"stale; run python -m workers.api.openapi: {FILE.name}\n")
        return 1
    if stale:
        FILE.write_text(rendered(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
