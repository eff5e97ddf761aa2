"""What must have come of the fuzz: each record has one dead letter that holds it as it was, or one answer."""

import json
import re
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid5

from aiokafka.structs import ConsumerRecord

from schemas.catalogue import DEAD_LETTERS, EXPIRY_TICKS
from schemas.dead_letters import DeadLetterReason
from schemas.ids import answer_id, tick_answer_id
from tests.fuzz.records import Record
from tests.fuzz.sending import Place

__all__ = ["Judged", "judge"]

Asked = tuple[str | int, UUID]  # an account, or a tick's partition, and the request id
_SHOWN = 20_000
_UUID = re.compile(r"[0-9a-f]{32}|(\{|urn:uuid:)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}?", re.IGNORECASE)


@dataclass(slots=True)
class Judged:
    """What came of some records."""

    complaints: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)  # of the dead letters
    answered: int = 0
    firsts: set[Asked] = field(default_factory=set)  # requests that had a first answer, in all rounds so far

    def complain(self, what: str, record: Record | None = None) -> None:
        """Note what is wrong, with the record so that it can be pasted as a case of its own."""
        shown = "" if record is None else repr(record)
        if len(shown) > _SHOWN:
            seed, _, number = record.name.rpartition("/") if record is not None else ("", "", "")
            shown = f"make_record({seed!r}, {number})"
        self.complaints.append(f"{what}: {shown}")


def judge(sent: Mapping[Place, Record], came: Iterable[ConsumerRecord], judged: Judged) -> None:
    """Compare what came with what was sent, and add it to what came before."""
    letters, answers = _sorted(came, judged)
    for place in letters.keys() - sent.keys():
        judged.complain(f"a dead letter of {place}, which was never sent")
    wanted: Counter[Asked] = Counter()
    some: dict[Asked, Record] = {}
    for place, record in sent.items():
        if place in letters:
            _judge_letters(letters[place], record, judged)
            continue
        try:
            asked = _asks(place, record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            judged.complain(f"neither a dead letter nor a request ({error!r})", record)
            continue
        wanted[asked] += 1
        some[asked] = record
    judged.answered += wanted.total()
    for asked in wanted.keys() | answers.keys():
        if wanted[asked] != answers[asked]:
            judged.complain(f"{answers[asked]} answers for {wanted[asked]} records of {asked}", some.get(asked))


def _sorted(
    came: Iterable[ConsumerRecord], judged: Judged
) -> tuple[dict[Place, list[Mapping[str, Any]]], Counter[Asked]]:
    """Return the dead letters by their origins, and how many answers there are to each request."""
    letters: defaultdict[Place, list[Mapping[str, Any]]] = defaultdict(list)
    answers: Counter[Asked] = Counter()
    for record in came:
        event = json.loads(record.value)
        if record.topic == DEAD_LETTERS:
            origin = event["data"]["origin"]
            letters[origin["topic"], origin["partition"], origin["offset"]].append(event["data"])
        elif (asked := _answers(event)) is not None:
            answers[asked] += 1
            if not event["data"]["repeat"] and event["data"]["code"] != "key_conflict":
                if asked in judged.firsts:
                    judged.complain(f"a second first answer to {asked}")
                judged.firsts.add(asked)
    return dict(letters), answers


def _asks(place: Place, record: Record) -> Asked:
    """Return what a record asks for, read without any of the code that is tried here."""
    attributes = {
        name[3:].decode(): value.decode() for name, value in record.headers if name.startswith(b"ce_") and value
    }
    if "specversion" not in attributes:
        attributes = json.loads(record.value or b"")
    topic, partition, _ = place
    return (partition if topic == EXPIRY_TICKS else attributes["subject"]), _request_id(attributes)


def _request_id(attributes: Mapping[str, Any]) -> UUID:
    """Return an event's id, if it is a UUID in one of its usual forms, and what its producer can compute otherwise."""
    if _UUID.fullmatch(attributes["id"]):
        return UUID(attributes["id"])
    return uuid5(UUID("8a4c1f5e-3d27-4f0b-b1c9-6e2a90d7c354"), f"{attributes['source']}\n{attributes['id']}")


def _answers(event: Mapping[str, Any]) -> Asked | None:
    """Return what an event answers; None of a movement beside an answer."""
    data = event["data"]
    request = UUID(data["request_id"])
    asked: Asked
    if event["type"] == "inmail.tick.decided.v1":
        asked, first = (data["source"]["partition"], request), tick_answer_id(data["source"]["partition"], request)
    else:
        asked, first = (event["subject"], request), answer_id(event["subject"], request)
    return asked if event["id"] == str(first) or data["code"] == "key_conflict" else None


def _judge_letters(letters: list[Mapping[str, Any]], record: Record, judged: Judged) -> None:
    letter = letters[0]
    judged.reasons[letter["reason"]] += 1
    if len(letters) != 1:
        judged.complain(f"{len(letters)} dead letters", record)
    if record.valid:
        judged.complain(f"refused though it is valid ({letter['reason']}: {letter['error']})", record)
    if letter["reason"] not in list(DeadLetterReason):
        judged.complain(f"an unknown reason {letter['reason']}", record)
    if not (0 < len(letter["error"]) <= 1000 and letter["error"].isprintable()):
        judged.complain(f"an error that nobody can read ({letter['error']!r})", record)
    if not _holds(letter, record):
        judged.complain("a dead letter with other bytes", record)


def _holds(letter: Mapping[str, Any], record: Record) -> bool:
    key, value = _bytes(letter["key_base64"]), _bytes(letter["value_base64"])
    headers = [(each["key"], _bytes(each["value_base64"])) for each in letter["headers"]]
    sent = [(name.decode("utf-8", "backslashreplace"), content) for name, content in record.headers]
    if (cut := letter["cut"]) is None:
        return (key, value, headers) == (record.key, record.value, sent)
    whole = record.value or b""
    told = (len(whole), sha256(whole).hexdigest(), len(sent))
    is_begun = whole.startswith(value or b"") and (record.key or b"").startswith(key or b"")
    return (
        is_begun
        and headers == sent[: len(headers)]
        and told == (cut["value_size"], cut["value_sha256"], cut["headers"])
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)
