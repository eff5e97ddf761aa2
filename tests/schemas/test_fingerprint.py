"""Fingerprints: the same request has the same one for ever, however it is spelled."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

import schemas
from schemas.catalogue import CATALOGUE, fingerprint
from schemas.envelope import AccountEvent, OpaqueId
from schemas.sends import Relationship, SendRequested, SendRequestedData
from schemas.ticks import ExpiryTick

EXAMPLES = Path(schemas.__file__).parent / "examples"
MODELS = {row.name: row.model for row in CATALOGUE}

# Stored outcomes are compared with these for ever: a fingerprint that changes turns every repeated request into a
# key_conflict. Never edit one; if a test fails here, the code is wrong.
GOLDEN = {
    "inmail.send.requested.v1": -5686152652231492138,
    "inmail.send.undeliverable.v1": 4980061059488219212,
    "inmail.recipient.responded.v1": -418430021167381685,
    "inmail.subscription.activated.v1": 4636960664819900357,
    "inmail.subscription.renewed.v1": 5501484544916383416,
    "inmail.subscription.plan-changed.v1": 228989629002369825,
    "inmail.subscription.cancelled.v1": -1955972520722264872,
    "inmail.subscription.cancellation-taken-back.v1": 3282259123443000849,
    "inmail.promotion.granted.v1": 2905982920099478588,
    "inmail.survey.granted.v1": -2416780689091676309,
    "inmail.credits.purchased.v1": 5277814892694828272,
    "inmail.grant.voided.v1": 1336022940444830870,
    "inmail.credits.adjusted.v1": 4556603160443132453,
    "inmail.account.erased.v1": 9068421325480229112,
    "inmail.expiry.tick.v1": -7071913681870936170,
}


def document(name: str) -> dict[str, Any]:
    """Return an example."""
    loaded: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_bytes())
    return loaded


def fingerprint_of(name: str, written: dict[str, Any]) -> int:
    """Return the fingerprint of an event written in some way."""
    return fingerprint(MODELS[name].model_validate_json(json.dumps(written)))


def test_every_incoming_event_has_a_pinned_fingerprint() -> None:
    """A new event is pinned from its first day."""
    assert {row.name for row in CATALOGUE if row.direction == "in"} == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_a_fingerprint_never_changes(name: str) -> None:
    """The examples' fingerprints are what they were when they were first stored."""
    assert fingerprint_of(name, document(name)) == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_spelling_and_circumstance_do_not_matter(name: str) -> None:
    """Order of names, id, time, source and extensions may differ when a producer asks again."""
    written = document(name)
    again = dict(reversed(written.items()))
    again["data"] = dict(reversed(written["data"].items()))
    again |= {
        "id": "00000000-0000-4000-8000-00000000ffff",
        "time": "2027-01-01T00:00:00Z",
        "source": "/elsewhere",
        "traceparent": "00-1",
    }

    assert fingerprint_of(name, again) == GOLDEN[name]


@pytest.mark.parametrize(
    ("name", "field"),
    [(row.name, field) for row in CATALOGUE if row.name in GOLDEN for field in document(row.name)["data"]],
)
def test_every_field_of_the_data_matters(name: str, field: str) -> None:
    """A request id that comes with another body is a conflict, whichever field differs."""
    written = document(name)
    was = written["data"][field]
    others = {
        "relationship": "connection",
        "credits": 77,
        "period_end": "2026-07-01T00:00:00Z",
        "term": "monthly",
        "anchor_day": 30,
        "send_id": "00000000-0000-4000-8000-00000000ffff",
        "grant_id": "00000000-0000-4000-8000-00000000ffff",
    }
    written["data"][field] = others.get(field, was.replace("2026", "2025") if "T00:" in str(was) else f"{was}x")

    assert fingerprint_of(name, written) != GOLDEN[name]


def test_the_type_matters() -> None:
    """An activation and a renewal with equal data are two requests."""
    activated = "inmail.subscription.activated.v1"
    renewed = "inmail.subscription.renewed.v1"

    assert fingerprint_of(renewed, document(activated) | {"type": renewed}) != GOLDEN[activated]


@pytest.mark.parametrize(
    "as_of", ["2026-05-30T00:00:00Z", "2026-05-30T02:00:00+02:00", "2026-05-29T19:00:00.000-05:00"]
)
def test_equal_instants_in_different_zones_are_equal(as_of: str) -> None:
    """A producer that moved to another zone still asks for the same."""
    name = ExpiryTick.type_name()

    assert fingerprint_of(name, document(name) | {"data": {"as_of": as_of}}) == GOLDEN[name]


def test_an_optional_field_added_later_changes_no_stored_fingerprint() -> None:
    """What is at its default is not hashed, so old requests keep their fingerprint."""

    class WiderData(SendRequestedData):
        campaign: OpaqueId | None = None

    class Wider(AccountEvent):
        type: Literal["inmail.send.requested.v1"]
        data: WiderData

    name = SendRequested.type_name()
    old = Wider.model_validate_json(json.dumps(document(name)))
    new = document(name)
    new["data"]["campaign"] = "spring"

    assert fingerprint(old) == GOLDEN[name]
    assert fingerprint(Wider.model_validate_json(json.dumps(new))) != GOLDEN[name]


@pytest.mark.parametrize("name", ["inmail.subscription.activated.v1", "inmail.subscription.renewed.v1"])
@pytest.mark.parametrize(
    ("more", "same"),
    [
        ({"term": "monthly"}, True),
        ({"anchor_day": None}, True),
        ({"term": "monthly", "anchor_day": None}, True),
        ({"term": "annual"}, False),
        ({"anchor_day": 1}, False),
    ],
)
def test_a_period_that_spells_out_a_default_is_the_same_request(
    name: str, more: dict[str, object], *, same: bool
) -> None:
    """Producers that learn of a new field may send old requests again with it."""
    written = document(name)
    written["data"] |= more

    assert (fingerprint_of(name, written) == GOLDEN[name]) is same


@pytest.mark.parametrize(("sender_id", "same"), [(None, True), ("seat-3", False)])
def test_the_seat_that_sends_matters_where_it_is_given(sender_id: str | None, *, same: bool) -> None:
    """Two seats of one contract that use one request id are in conflict."""
    name = SendRequested.type_name()
    written = document(name)
    written["data"]["sender_id"] = sender_id

    assert (fingerprint_of(name, written) == GOLDEN[name]) is same


def test_an_id_in_the_data_is_the_same_however_it_is_spelled() -> None:
    """A UUID may be written in capitals or without hyphens."""
    name = "inmail.send.undeliverable.v1"
    written = document(name)
    written["data"]["send_id"] = written["data"]["send_id"].replace("-", "").upper()

    assert fingerprint_of(name, written) == GOLDEN[name]


def test_fingerprints_fit_a_signed_64_bit_column() -> None:
    """Both signs occur and nothing is out of range."""
    relationship: Relationship = "none"
    base = SendRequested.model_validate_json(json.dumps(document(SendRequested.type_name())))
    found = [
        fingerprint(
            base.model_copy(update={"data": SendRequestedData(recipient_id=f"m-{n}", relationship=relationship)})
        )
        for n in range(1000)
    ]

    assert len(set(found)) == 1000
    assert min(found) in range(-(2**63), 0)
    assert max(found) in range(2**63)
