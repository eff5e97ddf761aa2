"""Ids of results: derived, distinct and never to change."""

from datetime import UTC, datetime
from uuid import UUID, uuid5

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import ids

REQUEST = UUID("00000000-0000-4000-8000-000000000001")
PINNED = [
    "48a75727-4017-5de0-830a-01b80286c3fe",
    "2456593e-34a4-51e3-a465-b53ea9f981b7",
    "8243c9ba-dd9f-58a4-bfe2-21f89c726f86",
    "45e30115-f770-5aa8-b729-ae0f6e666e1e",
    "c8749c3f-b85a-531a-843d-a154830d7fc5",
    "80a90c73-c9df-52e7-8d1c-bd87cc8d4044",
    "5849c951-e363-55db-99ab-1d4dbe76d3e2",
]


def test_ids_never_change() -> None:
    """Readers drop repeats by id, and results are written again years later: these values are pinned."""
    found = [
        ids.answer_id("acct-42", REQUEST),
        ids.conflict_id("acct-42", REQUEST, -7),
        ids.movement_id("acct-42", 3),
        ids.tick_answer_id(3, REQUEST),
        ids.tick_conflict_id(3, REQUEST, -7),
        ids.dead_letter_id("inmail.send-requests", 3, 1042),
        ids.balance_id("acct-42", 3),
    ]

    assert found == PINNED


def test_an_id_is_a_uuid5_of_the_namespace() -> None:
    """The quick way gives what the standard library gives, version and variant bits included."""
    cases = 0

    @settings(max_examples=300, database=None, deadline=None)
    @given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1), st.uuids())
    def run(account_id: str, request_id: UUID) -> None:
        nonlocal cases
        cases += 1

        assert ids.answer_id(account_id, request_id) == str(uuid5(ids.NAMESPACE, f"{account_id}/{request_id}"))

    run()

    assert cases >= 300


def test_ids_of_different_kinds_do_not_meet() -> None:
    """Account ids may hold slashes and imitate the names of other kinds; a blank they cannot hold."""
    account = f"acct/{REQUEST}"
    found = [
        ids.answer_id("acct", REQUEST),
        ids.answer_id(account, REQUEST),
        ids.answer_id("tick/3", REQUEST),
        ids.tick_answer_id(3, REQUEST),
        ids.conflict_id("acct", REQUEST, 1),
        ids.conflict_id(account, REQUEST, 1),
        ids.tick_conflict_id(3, REQUEST, 1),
        ids.movement_id("acct", 1),
        ids.movement_id("acct", 2),
        ids.movement_id("tick", 1),
        ids.movement_id("dead-letter", 1),
        ids.movement_id(account, 1),
        ids.dead_letter_id("inmail.send-requests", 1, 1),
        ids.dead_letter_id("inmail.send-requests", 1, 1, datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ids.dead_letter_id("inmail.send-requests", 1, 1, datetime(2026, 2, 1, 12, tzinfo=UTC)),
        ids.balance_id("acct", 1),
        ids.balance_id("tick", 1),
    ]

    assert len(set(found)) == len(found)
