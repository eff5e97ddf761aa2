"""Writes what is derived from the catalogue: JSON Schemas, an AsyncAPI document and the table of events.

    python -m schemas.render           write them
    python -m schemas.render --check   fail when what is written is stale

A change that would break a published event is refused either way: it wants a new version beside the old one.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, core_schema

from schemas.catalogue import ALL_TOPICS, CATALOGUE, EventType
from schemas.compatibility import breaking_changes, moved_records
from schemas.envelope import EVENT_CONTENT_TYPE, ID_PATTERN, ORIGIN_HEADER

__all__ = ["StaleError", "asyncapi", "check", "json_schema", "main", "render_table", "rendered_files", "write"]

GENERATED = Path(__file__).parent / "generated"
EXAMPLES = Path(__file__).parent / "examples"
EVENTS_PAGE = Path(__file__).parent.parent / "docs" / "events.md"
BEGIN, END = "<!-- events:begin -->", "<!-- events:end -->"

Json = dict[str, Any]


class StaleError(Exception):
    """What is written does not fit the catalogue. The message lists what, one per line."""


class _Generator(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes of field names: they say nothing new.

    What may be null has two types where that says it: of alternatives, generators of classes make no type.
    """

    def field_title_should_be_set(self, schema: CoreSchema | FieldInfo) -> bool:  # noqa: ARG002
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Json:
        shown: Json = super().nullable_schema(schema)
        inner, *null = shown.get("anyOf", [{}])
        if null != [{"type": "null"}] or not isinstance(inner.get("type"), str) or inner.keys() & {"const", "enum"}:
            return shown
        nullable: Json = inner | {"type": [inner["type"], "null"]}
        return nullable


def json_schema(model: type[BaseModel]) -> Json:
    """Return the JSON Schema of an event's value."""
    schema = model.model_json_schema(schema_generator=_Generator)
    return {"$schema": _Generator.schema_dialect, **schema}


def _example(row: EventType) -> Json:
    example: Json = json.loads((EXAMPLES / f"{row.name}.json").read_text(encoding="utf-8"))
    return example


_KEYS: Final[dict[str, Json]] = {
    "account": {"type": "string", "pattern": ID_PATTERN, "description": "The account id."},
    "account and lane": {
        "type": "string",
        "description": "For compaction only: an account has a key for each lane that changed it. Take the account from"
        " subject, and of its records the one with the highest data.sequence. The partition is the account's.",
    },
    "the message's": {
        "type": ["string", "null"],
        "description": "The key that the message came with, which may be any bytes; none where it had none or was cut.",
    },
}


_ORIGIN: Final[Json] = {
    "type": "string",
    "pattern": "^[0-9]+/[0-9]+$",
    "description": "Of a repeat: partition and offset of the record that it answers. Its source is the first one's.",
}


def _message(row: EventType) -> Json:
    key = {"key": _KEYS[row.key]} if row.key else {}
    headers: Json = {
        "type": "object",
        "properties": {"content-type": {"type": "string", "const": EVENT_CONTENT_TYPE}},
        "required": ["content-type"],
    }
    example = _example(row)
    if "repeat" in example["data"]:
        headers["properties"][ORIGIN_HEADER] = _ORIGIN
    return {
        "name": row.name,
        "title": row.model.__name__,
        "summary": row.summary,
        "contentType": "application/cloudevents+json",
        **({"headers": headers} if row.direction == "out" else {}),
        "payload": {"$ref": f"./{row.name}.json"},
        "bindings": {"kafka": {**key, "bindingVersion": "0.5.0"}},
        "examples": [{"payload": example}],
    }


def _operation(topic: str, rows: list[EventType]) -> Json:
    incoming = rows[0].direction == "in"
    kafka: Json = {"bindingVersion": "0.5.0"}
    if incoming:
        kafka["groupId"] = {"type": "string", "const": rows[0].group}
    return {
        "action": "receive" if incoming else "send",
        "channel": {"$ref": f"#/channels/{topic}"},
        "messages": [{"$ref": f"#/channels/{topic}/messages/{row.name}"} for row in rows],
        "bindings": {"kafka": kafka},
    }


def asyncapi() -> Json:
    """Return the AsyncAPI 3 document, from the ledger's side: it receives requests and sends results."""
    by_topic = {topic: [row for row in CATALOGUE if row.topic == topic] for topic in ALL_TOPICS}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "InMail credit ledger",
            "version": "1.0.0",
            "description": "CloudEvents 1.0 on Kafka; records are partitioned by account id with murmur2, the default"
            " of Java's client. Results are in structured JSON mode. What comes in may be in structured JSON mode, as"
            " shown, or in binary mode: attributes as ce_ headers, data as the value, its media type (JSON) in the"
            " header content-type. Where a schema has x-extensible-enum, it names known values and others may come."
            " An account's results may arrive in another order than their data.sequence, also in one partition: three"
            " consumer groups decide, each in transactions of its own. Sort by it, or keep the highest.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {
            topic: {
                "address": topic,
                "messages": {row.name: {"$ref": f"#/components/messages/{row.name}"} for row in rows},
            }
            for topic, rows in by_topic.items()
        },
        "operations": {
            f"{'receive' if rows[0].direction == 'in' else 'send'}-{topic}": _operation(topic, rows)
            for topic, rows in by_topic.items()
        },
        "components": {"messages": {row.name: _message(row) for row in CATALOGUE}},
    }


def rendered_files() -> dict[str, str]:
    """Return the text of each file of the generated folder, by file name."""
    documents = {f"{row.name}.json": json_schema(row.model) for row in CATALOGUE} | {"asyncapi.json": asyncapi()}
    return {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()}


def render_table() -> str:
    """Return the table of events."""
    lines = ["| event | topic | key | decided by | says |", "|---|---|---|---|---|"]
    lines += [
        f"| [`{row.name}`](../schemas/generated/{row.name}.json) | `{row.topic}` | {row.key or 'none'}"
        f" | {f'`{row.group}`' if row.group else ''} | {row.summary} |"
        for row in CATALOGUE
    ]
    return "\n".join(lines)


def _with_table(page: str) -> str:
    """Return the page's text with the table between its markers brought up to date."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise StaleError(f"{EVENTS_PAGE.name}: lacks the markers {BEGIN} and {END} for the table of events")
    return f"{before}{BEGIN}\n{render_table()}\n{END}{after}"


def _refuse_breaking_changes(generated: Path) -> None:
    broken = [
        f"{row.name}: {change}"
        for row in CATALOGUE
        if (published := generated / f"{row.name}.json").exists()
        for change in breaking_changes(
            json.loads(published.read_text(encoding="utf-8")),
            json_schema(row.model),
            incoming=row.direction == "in",
        )
    ]
    document = generated / "asyncapi.json"
    listed: Json = json.loads(document.read_text(encoding="utf-8")) if document.exists() else {}
    broken += moved_records(listed, asyncapi())
    files = {path.stem for path in generated.glob("*.json")} - {"asyncapi"}
    names = set(listed.get("components", {}).get("messages", {}))
    broken += [f"{name}: its schema is missing; restore the file" for name in sorted(names - files)]
    if files and not document.exists():
        broken.append(f"{document.name}: is missing; restore the file")
    broken += [f"{name}: is gone" for name in sorted((files | names) - {row.name for row in CATALOGUE})]
    if broken:
        raise StaleError("\n".join(["these break published events; make a new version beside the old:", *broken]))


def write(generated: Path = GENERATED, page: Path = EVENTS_PAGE) -> None:
    """Bring the generated files and the page of events up to date.

    Raises:
        StaleError: when that would break a published event, or the page lacks its markers.

    """
    _refuse_breaking_changes(generated)
    generated.mkdir(exist_ok=True)
    for name, text in rendered_files().items():
        (generated / name).write_text(text, encoding="utf-8")
    page.write_text(_with_table(_read(page)), encoding="utf-8")


def check(generated: Path = GENERATED, page: Path = EVENTS_PAGE) -> None:
    """See that the generated files and the page of events are up to date.

    Raises:
        StaleError: when they are not.

    """
    _refuse_breaking_changes(generated)
    stale = [name for name, text in rendered_files().items() if _read(generated / name) != text]
    text = _read(page)
    if _with_table(text) != text:
        stale.append(page.name)
    if stale:
        raise StaleError("\n".join(["stale; run python -m schemas.render:", *stale]))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m schemas.render", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when something is stale")
    try:
        (check if parser.parse_args(arguments).check else write)()
    except StaleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
