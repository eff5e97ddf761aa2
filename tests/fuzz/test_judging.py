"""The judge of the fuzz has to lose where something is wrong: one that cannot proves nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest
from aiokafka.structs import ConsumerRecord

from schemas.catalogue import CREDIT_EVENTS, DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS, Undecodable
from schemas.dead_letters import DeadLetterReason
from schemas.ids import answer_id
from tests.fuzz.judging import Judged, judge
from tests.fuzz.records import Record
from tests.fuzz.sending import Place
from workers.jobs.dead_letters import dead_letter

ID = UUID(int=7, version=4)
REQUEST = Record(SEND_REQUESTS, 0, b"alice", json.dumps({"id": str(ID), "subject": "alice"}).encode(), valid=True)
JUNK = Record(SEND_REQUESTS, 0, b"alice", b"{\xff", headers=((b"k\xff", b"1"), (b"none", None)))
SENT: dict[Place, Record] = {(SEND_REQUESTS, 0, 5): REQUEST, (SEND_REQUESTS, 0, 6): JUNK}


def _came(topic: str, value: bytes) -> ConsumerRecord:
    return ConsumerRecord(topic, 0, 0, 0, 1, b"alice", value, None, 0, 0, ())


def _answer(**changes: object) -> ConsumerRecord:
    data = {"request_id": str(ID), "repeat": False, "code": "charged"} | changes
    event = {"id": str(answer_id("alice", ID)), "subject": "alice", "type": "inmail.send.decided.v1", "data": data}
    return _came(SEND_RESULTS, json.dumps(event).encode())


def _conflict() -> ConsumerRecord:
    return _answer(request_id=str(UUID(int=9)), code="key_conflict")


def _letter(record: Record = JUNK, offset: int = 6) -> ConsumerRecord:
    headers = [(name.decode("utf-8", "backslashreplace"), value) for name, value in record.headers]
    read = ConsumerRecord(SEND_REQUESTS, 0, offset, 1, 1, record.key, record.value, None, 0, 0, headers)
    return _came(DEAD_LETTERS, dead_letter(read, Undecodable(DeadLetterReason.NOT_JSON, "planted")).value)


def _judged(came: list[ConsumerRecord]) -> list[str]:
    judged = Judged()
    judge(SENT, came, judged)
    return judged.complaints


def test_an_answer_and_a_dead_letter_account_for_two_records() -> None:
    """A movement beside an answer is none itself."""
    beside = {"id": str(UUID(int=1)), "subject": "alice", "type": "inmail.credits.low.v1"}
    data = {"request_id": str(ID), "repeat": False, "code": "low"}
    movement = _came(CREDIT_EVENTS, json.dumps(beside | {"data": data}).encode())

    assert [] == _judged([_answer(), _letter(), movement])


WRONG: dict[str, tuple[Callable[[], list[ConsumerRecord]], str]] = {
    "an answer is missing": (lambda: [_letter()], "0 answers for 1 records"),
    "an answer comes twice": (lambda: [_answer(), _answer(repeat=True), _letter()], "2 answers for 1 records"),
    "there are two first answers": (lambda: [_answer(), _answer(), _letter()], "a second first answer"),
    "nobody asked": (lambda: [_answer(), _conflict(), _letter()], "1 answers for 0"),
    "a dead letter is missing": (lambda: [_answer()], "neither a dead letter nor a request"),
    "a dead letter comes twice": (lambda: [_answer(), _letter(), _letter()], "2 dead letters"),
    "a dead letter is of no record": (lambda: [_answer(), _letter(), _letter(offset=9)], "never sent"),
    "a valid record is set aside": (lambda: [_letter(REQUEST, 5), _letter()], "refused though it is valid"),
    "a value is another": (lambda: [_answer(), _letter(replace(JUNK, value=b"{"))], "other bytes"),
    "a value is none": (lambda: [_answer(), _letter(replace(JUNK, value=None))], "other bytes"),
    "a key is another": (lambda: [_answer(), _letter(replace(JUNK, key=None))], "other bytes"),
    "a header is missing": (lambda: [_answer(), _letter(replace(JUNK, headers=JUNK.headers[1:]))], "other bytes"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_complained_of(what: str) -> None:
    """With the record, as it can be pasted."""
    came, complaint = WRONG[what]

    assert any(complaint in each for each in _judged(came()))
