"""The stored examples: what was once written to a topic must be readable for ever."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import schemas
from schemas.catalogue import CATALOGUE, EventType, decode
from schemas.envelope import encode
from schemas.render import json_schema

EXAMPLES = Path(schemas.__file__).parent / "examples"
INCOMING = [row for row in CATALOGUE if row.direction == "in"]


def each(rows: Any) -> Any:
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


def stored(row: EventType) -> bytes:
    return (EXAMPLES / f"{row.name}.json").read_bytes()


def test_every_event_of_the_catalogue_has_an_example_and_every_example_a_row() -> None:
    """Adding an event without an example fails here; so does removing one that was published."""
    names = {path.stem for path in EXAMPLES.iterdir()}

    assert {row.name for row in CATALOGUE} == names


@each(CATALOGUE)
def test_an_example_parses_and_is_written_again_with_equal_content(row: EventType) -> None:
    """Nothing is lost, renamed or reshaped between reading and writing."""
    event = row.model.model_validate_json(stored(row))

    assert json.loads(stored(row)) == json.loads(encode(event))


@each(CATALOGUE)
def test_an_example_fits_the_json_schema_that_is_published(row: EventType) -> None:
    """Schema and model agree on what is valid."""
    jsonschema.Draft202012Validator(json_schema(row.model)).validate(json.loads(stored(row)))


@each(INCOMING)
def test_an_incoming_example_decodes_from_its_topic(row: EventType) -> None:
    """The way that workers read it finds the class that the catalogue names."""
    subject = json.loads(stored(row)).get("subject")
    event = decode(row.topic, subject and subject.encode(), stored(row))

    assert row.model is type(event)
    assert row.name == event.type


def test_a_topic_flows_in_one_direction_with_one_kind_of_key_and_one_group() -> None:
    """A lane can treat all records of its topic alike. Results mix keyed and unkeyed on one topic."""
    for topic in {row.topic for row in INCOMING}:
        rows = [row for row in CATALOGUE if row.topic == topic]

        assert 1 == len({(row.direction, row.key, row.group) for row in rows})
        assert rows[0].group is not None
