"""What is derived from the catalogue, and the gate that keeps published events readable."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from schemas import render
from schemas.catalogue import ALL_TOPICS, BILLING_EVENTS, CATALOGUE
from schemas.compatibility import breaking_changes
from schemas.decisions import SendDecided
from schemas.sends import SendRequested

PAGE = f"# Title\n\n{render.BEGIN}\nold\n{render.END}\n\nThe rest.\n"


@pytest.fixture
def rendered(tmp_path: Path) -> tuple[Path, Path]:
    """Return a generated folder and a page that are up to date."""
    page = tmp_path / "events.md"
    page.write_text(PAGE)
    render.write(tmp_path / "generated", page)
    return tmp_path / "generated", page


def test_the_generated_files_are_up_to_date() -> None:
    """What is committed is what the catalogue says: run `python -m schemas.render` and commit."""
    found = {path.name: path.read_text(encoding="utf-8") for path in render.GENERATED.iterdir()}

    assert found == render.rendered_files()


def test_writing_makes_the_check_pass_and_keeps_the_rest_of_the_readme(rendered: tuple[Path, Path]) -> None:
    """Only what stands between the markers is replaced."""
    render.check(*rendered)
    text = rendered[1].read_text()

    assert text.startswith("# Title\n")
    assert text.endswith("\nThe rest.\n")
    assert "old" not in text.split(render.BEGIN)[1].split("\n")
    assert all(f"`{row.name}`" in text for row in CATALOGUE)


def test_a_stale_file_fails_the_check_by_name(rendered: tuple[Path, Path]) -> None:
    """The message says what to run and what is stale."""
    (rendered[0] / "asyncapi.json").write_text("{}")
    with pytest.raises(render.StaleError, match=r"(?s)python -m schemas.render.*asyncapi.json"):
        render.check(*rendered)


def test_a_stale_table_fails_the_check(rendered: tuple[Path, Path]) -> None:
    """The page cannot fall behind the catalogue."""
    rendered[1].write_text(PAGE)
    with pytest.raises(render.StaleError, match=r"events.md"):
        render.check(*rendered)


@pytest.mark.parametrize("text", ["", f"{render.BEGIN}", f"{render.END} {render.BEGIN}"])
def test_a_readme_without_markers_fails_the_check_saying_so(rendered: tuple[Path, Path], text: str) -> None:
    """Nothing guesses where the table belongs."""
    rendered[1].write_text(text)
    with pytest.raises(render.StaleError, match="lacks the markers"):
        render.check(*rendered)


def test_a_change_that_breaks_a_published_event_can_be_neither_written_nor_checked(
    rendered: tuple[Path, Path],
) -> None:
    """The committed schema is the promise: rendering again does not wave a breaking change through."""
    path = rendered[0] / "inmail.send.requested.v1.json"
    published = json.loads(path.read_text())
    published["$defs"]["SendRequestedData"]["properties"]["campaign"] = {"type": "string"}
    path.write_text(json.dumps(published))
    for run in (render.write, render.check):
        with pytest.raises(render.StaleError, match=r"inmail.send.requested.v1: event.data.campaign: was removed"):
            run(*rendered)


def test_a_published_event_cannot_disappear(rendered: tuple[Path, Path]) -> None:
    """Old records stay on topics, and old producers go on."""
    (rendered[0] / "inmail.gone.v1.json").write_text("{}")
    with pytest.raises(render.StaleError, match=r"inmail.gone.v1: is gone"):
        render.write(*rendered)


@pytest.mark.parametrize(
    ("removed", "change"),
    [
        ("inmail.send.requested.v1.json", "inmail.send.requested.v1: its schema is missing"),
        ("asyncapi.json", "asyncapi.json: is missing"),
    ],
)
def test_a_promise_is_not_taken_back_by_removing_its_file(
    rendered: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, removed: str, change: str
) -> None:
    """Otherwise rendering again would wave through whatever the file would have refused."""
    (rendered[0] / removed).unlink()
    row, *rest = CATALOGUE
    monkeypatch.setattr(render, "CATALOGUE", (row._replace(topic=BILLING_EVENTS), *rest))
    for run in (render.write, render.check):
        with pytest.raises(render.StaleError, match=change):
            run(*rendered)
    assert not (rendered[0] / removed).exists()


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (
            {"topic": BILLING_EVENTS},
            "inmail.send.requested.v1: address was inmail.send-requests, is inmail.billing-events",
        ),
        ({"key": None}, "inmail.send.requested.v1: key was {'type': 'string',"),
        ({"group": "inmail-other"}, "inmail.send.requested.v1: groupId was inmail-send, is inmail-other"),
    ],
)
def test_an_event_keeps_its_topic_its_key_and_its_group(
    rendered: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, place: dict[str, Any], change: str
) -> None:
    """Producers send there, partition by it, and give the group its rights: the schema alone is not the contract."""
    row, *rest = CATALOGUE
    monkeypatch.setattr(render, "CATALOGUE", (row._replace(**place), *rest))
    for run in (render.write, render.check):
        with pytest.raises(render.StaleError, match=re.escape(change)):
            run(*rendered)


@pytest.mark.parametrize(
    ("edit", "change"),
    [
        (lambda headers: headers["properties"].update(more={"type": "string"}), "headers.more: was removed"),
        (lambda headers: headers["properties"]["content-type"].update(const="a/b"), "headers.content-type: a/b is no"),
        (lambda headers: headers["properties"].pop("content-type"), None),
    ],
)
def test_a_result_keeps_its_headers_and_may_get_more(
    rendered: tuple[Path, Path], edit: Callable[[dict[str, Any]], object], change: str | None
) -> None:
    """Readers choose by them how to read."""
    path = rendered[0] / "asyncapi.json"
    document = json.loads(path.read_text())
    edit(document["components"]["messages"]["inmail.send.decided.v1"]["headers"])
    path.write_text(json.dumps(document))
    if change is None:
        render.write(*rendered)
    else:
        with pytest.raises(render.StaleError, match=re.escape(f"inmail.send.decided.v1: {change}")):
            render.write(*rendered)


Edit = Callable[[dict[str, Any]], object]


def data(schema: dict[str, Any]) -> Any:
    """Return the part of a schema that is about `data`."""
    return schema["$defs"][schema["properties"]["data"]["$ref"].removeprefix("#/$defs/")]


def values(schema: dict[str, Any]) -> Any:
    """Return the values of the relationship, which are closed in what comes in and open in what goes out."""
    field = data(schema)["properties"]["relationship"]
    return field["enum" if "enum" in field else "x-extensible-enum"]


def choices(field: dict[str, Any]) -> Any:
    """Return what a field that may be null is: alternatives where one is a constant, or types."""
    return field["anyOf"] if "anyOf" in field else field["type"]


BREAKING_FOR_BOTH: list[tuple[Edit, str]] = [
    (lambda new: data(new)["properties"].pop("recipient_id"), "event.data.recipient_id: was removed or renamed"),
    (lambda new: values(new).remove("none"), "event.data.relationship: none is no longer a value"),
    (
        lambda new: data(new)["properties"].update(relationship={"type": "string"}),
        "event.data.relationship: is no longer an enum",
    ),
    (
        lambda new: data(new)["properties"]["recipient_id"].update(type="integer"),
        "event.data.recipient_id: type was string, is integer",
    ),
    (
        lambda new: data(new)["properties"]["recipient_id"].update(maxLength=3),
        "event.data.recipient_id: maxLength was None, is 3",
    ),
    (lambda new: new["properties"].pop("subject"), "event.subject: was removed or renamed"),
    (
        lambda new: choices(new["properties"]["datacontenttype"]).pop(),
        "event.datacontenttype: has 1 alternatives, had 2",
    ),
]


@pytest.mark.parametrize("incoming", [True, False])
@pytest.mark.parametrize(("edit", "change"), BREAKING_FOR_BOTH)
def test_a_breaking_change_is_named(edit: Edit, change: str, *, incoming: bool) -> None:
    """Removed, renamed, narrowed or retyped: each is told with its path."""
    old = render.json_schema(SendRequested if incoming else SendDecided)
    new = copy.deepcopy(old)
    edit(new)

    assert change in breaking_changes(old, new, incoming=incoming)


def test_a_field_that_may_be_null_has_two_types_which_are_as_good_as_alternatives() -> None:
    """Generators make a class's field of types. Schemas published with alternatives say the same, and null counts."""
    new = render.json_schema(SendDecided)
    old = copy.deepcopy(new)
    data(old)["properties"]["lot"] = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}
    never_null = copy.deepcopy(new)
    data(never_null)["properties"]["lot"]["type"] = "integer"

    assert ["integer", "null"] == data(new)["properties"]["lot"]["type"]
    assert [] == breaking_changes(old, new, incoming=False) == breaking_changes(new, old, incoming=False)
    assert ["event.data.lot: has 0 alternatives, had 2"] == [
        change for change in breaking_changes(new, never_null, incoming=False) if "alternatives" in change
    ]


def test_a_field_that_becomes_required_breaks_producers_only() -> None:
    """We may always say more; others need not."""
    old = render.json_schema(SendRequested)
    new = copy.deepcopy(old)
    data(new)["properties"]["campaign"] = {"type": "string"}
    data(new)["required"].append("campaign")

    assert breaking_changes(old, new, incoming=True) == ["event.data.campaign: is now required"]
    assert breaking_changes(old, new, incoming=False) == []


def test_a_field_that_may_be_missing_breaks_readers_only() -> None:
    """We may ask for less; readers rely on what they got."""
    old = render.json_schema(SendDecided)
    new = copy.deepcopy(old)
    data(new)["required"].remove("lot")

    assert breaking_changes(old, new, incoming=False) == ["event.data.lot: may now be missing"]
    assert breaking_changes(old, new, incoming=True) == []


@pytest.mark.parametrize("incoming", [True, False])
def test_a_new_optional_field_and_better_words_are_compatible(*, incoming: bool) -> None:
    """What the contract allows passes the gate."""
    old = render.json_schema(SendRequested if incoming else SendDecided)
    new = copy.deepcopy(old)
    data(new)["properties"]["campaign"] = {"type": "string"}
    new["description"] = "Better words."

    assert breaking_changes(old, new, incoming=incoming) == []


def test_a_new_value_is_compatible_in_an_open_enum_only() -> None:
    """Readers expect values that they do not know, but a type generated from a closed list refuses them."""
    for model, broken in ((SendDecided, []), (SendRequested, ["colleague is a new value of a closed enum"])):
        old = render.json_schema(model)
        new = copy.deepcopy(old)
        values(new).append("colleague")
        expected = [f"event.data.relationship: {each}" for each in broken]

        assert expected == breaking_changes(old, new, incoming=model is SendRequested)


def test_a_closed_list_of_one_value_is_an_enum_too() -> None:
    """JSON Schema has a word of its own for it."""
    old, new = {"const": "a", "type": "string"}, {"enum": ["a", "b"], "type": "string"}

    assert breaking_changes(old, new, incoming=False) == ["event: b is a new value of a closed enum"]
    assert breaking_changes(new, old, incoming=False) == ["event: b is no longer a value"]


def test_an_enum_may_be_opened_and_never_closed_again() -> None:
    """Whoever reads the closed list goes on reading what is sent today."""
    closed, opened = {"type": "string", "enum": ["a"]}, {"type": "string", "x-extensible-enum": ["a"]}

    for incoming in (True, False):
        assert breaking_changes(closed, opened, incoming=incoming) == []
        assert breaking_changes(opened, closed, incoming=incoming) == ["event: is now a closed enum"]


def test_a_closed_enum_of_a_result_does_not_gain_a_value_as_it_is_opened() -> None:
    """Whoever generated a type from the closed list fails on it; for what comes in, it is one more that is taken."""
    closed, opened = {"type": "string", "enum": ["a"]}, {"type": "string", "x-extensible-enum": ["a", "b"]}

    assert breaking_changes(closed, opened, incoming=False) == ["event: b is a new value of a closed enum"]
    assert breaking_changes(closed, opened, incoming=True) == []


def test_what_a_list_holds_is_part_of_the_promise() -> None:
    """Without `items` it may hold anything: more than a reader was told of, and no less than producers were."""
    numbers, anything = {"type": "array", "items": {"type": "integer"}}, {"type": "array"}

    assert breaking_changes(numbers, anything, incoming=False) == ["event: says no longer what its items are"]
    assert breaking_changes(numbers, anything, incoming=True) == []
    for incoming in (True, False):
        assert breaking_changes(anything, numbers, incoming=incoming) == ["event: says now what its items are"]


UUID_FORMAT = {"type": "string", "format": "uuid"}


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (UUID_FORMAT, {"anyOf": [UUID_FORMAT, {"type": "null"}]}),
        (UUID_FORMAT, {"type": "string", "pattern": "^.{1,256}$"}),
        (UUID_FORMAT, {"type": "string"}),
        ({"type": "string", "const": "a/json"}, {"type": "string", "pattern": "^.*/json$"}),
        ({"type": "string", "maxLength": 3}, {"type": "string"}),
        ({"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 4}),
        ({"type": "integer", "minimum": 1, "maximum": 9}, {"type": "integer", "minimum": 0, "maximum": 10}),
    ],
)
def test_what_comes_in_may_be_taken_more_widely_and_what_goes_out_may_not_vary_more(
    narrow: dict[str, Any], wide: dict[str, Any]
) -> None:
    """Each producer's event stays valid; a reader would meet what it was told cannot come."""
    assert breaking_changes(narrow, wide, incoming=True) == []
    assert breaking_changes(narrow, wide, incoming=False) != []
    assert breaking_changes(wide, narrow, incoming=True) != []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (UUID_FORMAT, {"type": "string", "pattern": "^[0-9]+$"}),
        ({"type": "string", "const": "a/xml"}, {"type": "string", "pattern": "^.*/json$"}),
        (UUID_FORMAT, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    ],
)
def test_another_form_that_the_old_values_do_not_have_breaks_producers(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    """Wider means that all that was valid still is."""
    assert breaking_changes(old, new, incoming=True) != []


@pytest.mark.parametrize("incoming", [True, False])
def test_a_class_keeps_the_name_that_generators_give_it(*, incoming: bool) -> None:
    """It is made of `title`: another one breaks the code around a generated class. One more is no harm."""
    old = render.json_schema(SendRequested if incoming else SendDecided)
    new = copy.deepcopy(old)
    name = data(old)["title"]
    data(new)["title"] = "Renamed"
    titled = copy.deepcopy(old)
    data(titled)["properties"]["recipient_id"]["title"] = "Recipient"

    assert breaking_changes(old, new, incoming=incoming) == [f"event.data: title was {name}, is Renamed"]
    assert breaking_changes(old, titled, incoming=incoming) == []


def closed_enums(model: type[BaseModel]) -> set[str]:
    """Return the fields of an event that are a closed list, of two values or more."""
    found = set()

    def look(node: object, name: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            if key == "enum":
                found.add(name)
            look(value, name if key in {"anyOf", "items"} else key)
        for each in node if isinstance(node, list) else ():
            look(each, name)

    look(render.json_schema(model), "event")
    return found


def test_results_close_no_list_but_the_outcome_and_the_price() -> None:
    """A type generated from the schemas takes the codes that come later. By its outcome a reader knows what to do."""
    closed = {name for row in CATALOGUE if row.direction == "out" for name in closed_enums(row.model)}

    assert closed == {"outcome", "credits_charged", "credits"}
    assert closed_enums(SendRequested) == {"relationship"}


def test_the_members_of_results_that_may_be_missing_are_those_that_the_page_names() -> None:
    """A reader that relies on a member which is not always there fails on the first result without it."""
    page = (Path(render.__file__).parent / "README.md").read_text(encoding="utf-8")
    of_accounts = {row.name for row in CATALOGUE if row.direction == "out" and row.key == "account"}
    named = {
        (name, member)
        for member, of in re.findall(r"^  \| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE)
        for name in (of_accounts if of == "all whose key is the account" else re.findall(r"`([^`]+)`", of))
    }
    schemas = {row.name: data(render.json_schema(row.model)) for row in CATALOGUE if row.direction == "out"}

    assert named == {
        (name, member)
        for name, schema in schemas.items()
        for member in schema["properties"].keys() - schema["required"]
    }


def references(node: object) -> list[str]:
    """Return every $ref of a document."""
    if isinstance(node, dict):
        found = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return found + [reference for value in node.values() for reference in references(value)]
    return [reference for value in node for reference in references(value)] if isinstance(node, list) else []


def test_the_contract_says_that_results_may_arrive_in_another_order_than_their_sequence() -> None:
    """Whoever takes the record that comes last for the newest would go back to an older balance."""
    sequence = data(render.json_schema(SendDecided))["properties"]["sequence"]

    assert "in another order than their data.sequence" in render.asyncapi()["info"]["description"]
    assert "may arrive in another order" in " ".join(sequence["description"].split())
    assert "may arrive in another order" in render.EVENTS_PAGE.read_text(encoding="utf-8")


def test_the_asyncapi_document_refers_only_to_what_exists() -> None:
    """Every channel, message and payload that is referred to can be found."""
    document = render.asyncapi()
    assert set(document["channels"]) == set(ALL_TOPICS)
    found = references(document)
    assert len(found) == 3 * len(CATALOGUE) + len(ALL_TOPICS)
    for reference in found:
        if reference.startswith("#/"):
            place: Any = document
            for step in reference.removeprefix("#/").split("/"):
                place = place[step]
        else:
            assert reference.removeprefix("./") in render.rendered_files()
