"""The gate that keeps the read API's promise to its clients: what may change in its OpenAPI document."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from workers.api import openapi as module
from workers.api.compatibility import broken_promises
from workers.api.openapi import openapi
from workers.api.problems import ProblemKind

_BALANCE_PATH = "/v1/accounts/{account_id}/balance"


def _get(document: Any, path: str = _BALANCE_PATH) -> Any:
    return document["paths"][path]["get"]


def _schema_of(document: Any, name: str) -> Any:
    return document["components"]["schemas"][name]


def _publish_parameter(document: Any, name: str) -> None:
    _get(document)["parameters"].append({"name": name, "in": "query", "required": False, "schema": {"type": "string"}})


@pytest.mark.parametrize(
    ("publish", "change"),
    [
        (lambda old: old["paths"].update({"/v1/gone": {"get": _get(old)}}), "get /v1/gone: was removed or renamed"),
        (
            lambda old: _publish_parameter(old, "gone"),
            f"get {_BALANCE_PATH}: parameter gone in query: was removed or renamed",
        ),
        (
            lambda old: _get(old)["parameters"][0].update(required=False),
            f"get {_BALANCE_PATH}: parameter account_id in path: is now required",
        ),
        (
            lambda old: _get(old)["parameters"][1]["schema"].pop("maximum"),
            f"get {_BALANCE_PATH}: parameter wait_for in query: maximum was None, is 9223372036854775807",
        ),
        (lambda old: _get(old).update(operationId="gone"), f"get {_BALANCE_PATH}: operationId was gone, is balance"),
        (
            lambda old: _get(old)["responses"].update({"204": {"content": {}}}),
            f"get {_BALANCE_PATH}: 204 has another body",
        ),
        (lambda old: old["components"]["schemas"].update(Gone={"type": "object"}), "Gone: was removed or renamed"),
        (
            lambda old: _schema_of(old, "Lot")["properties"].update(gone={"type": "integer"}),
            "Lot.gone: was removed or renamed",
        ),
        (
            lambda old: _schema_of(old, "Line")["properties"]["code"].update(type="integer"),
            "Line.code: type was integer, is string",
        ),
    ],
)
def test_what_would_break_a_client_can_be_neither_written_nor_checked(
    publish: Any, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The committed document is the promise: rendering again does not wave a breaking change through."""
    published = openapi()
    publish(published)
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(published))
    monkeypatch.setattr(module, "FILE", file)
    said = []
    for arguments in ([], ["--check"]):
        assert 1 == module.main(arguments)
        said.append(capsys.readouterr().err)

    assert json.dumps(published) == file.read_text()
    assert [True, True] == [change in each.splitlines() for each in said]


def test_every_problem_that_an_operation_answers_with_is_described() -> None:
    """A host's wrong name keeps each of them, health as well; a wrong path or method is of none."""
    document, of_none = openapi(), {ProblemKind.NOT_FOUND, ProblemKind.METHOD_NOT_ALLOWED}
    told = {
        path: set(re.findall(r"urn:inmail:problem:[a-z-]+", json.dumps(each["get"]["responses"])))
        for path, each in document["paths"].items()
    }

    assert {kind.urn for kind in ProblemKind} - {kind.urn for kind in of_none} == set().union(*told.values())
    assert all(ProblemKind.WRONG_HOST.urn in urns for urns in told.values())


def test_what_is_added_to_the_api_breaks_nobody() -> None:
    """A path, an optional parameter, a member of an answer, a kind of error."""
    old, new = openapi(), openapi()
    new["paths"]["/v1/more"] = {"get": _get(new)}
    _publish_parameter(new, "more")
    _schema_of(new, "Balance")["properties"]["more"] = {"type": "string"}
    _schema_of(new, "Balance")["required"].append("more")
    _get(new)["responses"]["410"] = {"description": "Gone."}

    assert [] == broken_promises(old, new)
