"""The stored examples: what was once written to a topic must be readable for ever."""

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

import schemas
from schemas.catalogue import _READERS, CATALOGUE, EventType, decode
from schemas.envelope import encode
from schemas.render import json_schema
from schemas.sends import SendRequested, SendRequestedData

EXAMPLES = Path(schemas.__file__).parent / "examples"
INCOMING = [row for row in CATALOGUE if row.direction == "in"]


def each(rows: list[EventType] | tuple[EventType, ...]) -> pytest.MarkDecorator:
    """Run a test for each of these events."""
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


def stored(row: EventType) -> bytes:
    """Return an event's example as it is stored."""
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


@pytest.mark.parametrize(("sender_id", "written"), [("seat-3", {"sender_id": "seat-3"}), (None, {})])
def test_an_optional_field_is_written_where_it_says_something(sender_id: str | None, written: dict[str, str]) -> None:
    """What is at its default stays off the wire, as if the field had never been added."""
    fields = {"recipient_id": "member-7", "relationship": "none"}
    data = SendRequestedData.model_validate(fields | {"sender_id": sender_id})
    event = SendRequested.model_validate_json(stored(INCOMING[0])).model_copy(update={"data": data})

    assert json.loads(encode(event))["data"] == fields | written


@each(CATALOGUE)
def test_an_example_fits_the_json_schema_that_is_published(row: EventType) -> None:
    """Schema and model agree on what is valid."""
    jsonschema.Draft202012Validator(json_schema(row.model)).validate(json.loads(stored(row)))


@each([row for row in CATALOGUE if "credits" in row.name and row.direction == "out"])
def test_the_balances_of_an_example_are_what_a_worker_writes(row: EventType) -> None:
    """What could be spent at as_of, before and after: moved by the credits of a lot that can be spent then, or not."""
    data = json.loads(stored(row))["data"]
    signs = {"granted": 1, "reversed": 1, "voided": -1, "forfeited": -1}
    moved = signs.get(data["code"], 0) * data.get("credits", 0)

    assert moved == data["balance_after"] - data["balance_before"]
    assert ("expires_at" not in data) or (data["expires_at"] <= data["as_of"]) == (data["code"] == "expired")


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

        assert len({(row.direction, row.key, row.group) for row in rows}) == 1
        assert rows[0].group is not None


@each(INCOMING)
def test_an_event_without_optional_fields_has_the_quotation_marks_that_decoding_counts_on(row: EventType) -> None:
    """One too many expected, and a repeated name could pass for an event without one. `time` is counted."""
    document = json.loads(stored(row))
    del document["datacontenttype"]
    optional = {name for name, field in row.model.model_fields.items() if not field.is_required()} - {"time"}
    document["data"] = {
        name: value for name, value in document["data"].items() if name not in _READERS[row.topic].optional[row.name]
    }
    row.model.model_validate_json(json.dumps(document))

    assert not optional & document.keys()
    assert json.dumps(document).count('"') == _READERS[row.topic].plain_quotes[row.name]
