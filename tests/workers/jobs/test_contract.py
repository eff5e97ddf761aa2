"""The contract's words are true of what workers write, and the check of them sees what is not."""

import copy
import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from aiokafka.structs import ConsumerRecord

from infra.clock import from_milliseconds
from infra.postgres import Connection
from schemas.catalogue import CATALOGUE, SEND_REQUESTS, Undecodable
from schemas.dead_letters import DeadLetterReason
from schemas.ids import dead_letter_id
from tests.ledger.scenario import FOLDER, read_file
from tests.ledger.scenario_run import run
from tests.ledger.test_scenarios import rolled_back
from tests.workers.balance_contract import BALANCE, BALANCE_MEANINGS
from tests.workers.contract import MEANINGS, SCHEMAS, TICK_MEMBERS, InputRecord, broken_words_of_all, records_of
from workers.jobs.dead_letters import KEPT_BYTES, dead_letter

LETTER = "inmail.message.dead-lettered.v1"
RESULTS = [row.name for row in CATALOGUE if row.direction == "out" and row.name != LETTER]
TICKS = "inmail.tick.decided.v1"
# Together they have every type of result.
TABLES = ("notices", "reversals", "plan_changes", "withdrawals", "caps", "not_current", "cancels")

Event = dict[str, Any]
Records = dict[tuple[str, int, int], InputRecord]


def _members(name: str) -> set[str]:
    """Return the members of a result's data, as its published schema has them."""
    data = SCHEMAS[name]["properties"]["data"]["$ref"].rpartition("/")[2]
    return set(SCHEMAS[name]["$defs"][data]["properties"])


@pytest.mark.parametrize("name", RESULTS)
def test_every_field_of_a_published_result_has_a_check_of_its_meaning(name: str) -> None:
    """A field that is added to an event wants its meaning here."""
    checked = {TICKS: TICK_MEMBERS, BALANCE: BALANCE_MEANINGS}.get(name) or MEANINGS[name]

    assert _members(name) == set(checked)


async def test_a_field_that_says_something_else_is_noticed(shared: Connection) -> None:
    """Each field of each event, changed alone, breaks the contract: the check of a field is more than its type."""
    every = {(name, member) for name in RESULTS for member in _members(name)}
    seen: dict[tuple[str, str], bool] = {}
    for scenario in (each for path in sorted(FOLDER.glob("*.txt")) for each in read_file(path)):
        if not scenario.file.startswith(TABLES):
            continue
        async with rolled_back(shared) as books:
            await run(scenario, books)
            events = [json.loads(each.value) for each in books.messages + books.balances]
            records = records_of(books.requests)
        for number, event in enumerate(events):
            for name in _members(event["type"]):
                if not event["data"].get("repeat") and not seen.get((event["type"], name), False):
                    seen[event["type"], name] = any(
                        _is_noticed(events, number, name, value, records) for value in _others(event["data"].get(name))
                    )

        if len(seen) == len(every) and all(seen.values()):
            break

    assert [] == sorted(place for place, noticed in seen.items() if not noticed)
    assert every == set(seen)


def _is_noticed(events: list[Event], number: int, name: str, value: object, records: Records) -> bool:
    changed = [*events]
    changed[number] = copy.deepcopy(events[number])
    changed[number]["data"][name] = value
    try:
        broken, _ = broken_words_of_all(changed, records)
    except (LookupError, ValueError, TypeError):  # a lot, a request or a code that there is not
        return True
    return bool(broken)


def _others(value: Any) -> Iterator[Any]:
    """Yield other values than a field's, of its kind."""
    match value:
        case bool():
            yield not value
        case int():
            yield from (value + 1, value - 1)
        case None:
            yield from (1, "other", "2031-01-01T00:00:00Z")
        case list():  # lots with their ends
            yield value[1:] if value else None
            for each in value[:1]:
                end = (datetime.fromisoformat(each["expires_at"]) + timedelta(seconds=1)).isoformat()
                yield [each | {"expires_at": end.replace("+00:00", "Z")}, *value[1:]]
        case dict():
            yield value | {"offset": value["offset"] + 1}
        case str() if value[:2] == "20" and "T" in value:
            for seconds in (1, -1):
                yield (datetime.fromisoformat(value) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        case _:
            yield from (str(UUID(int=7)), "other", "rejected" if value == "accepted" else "accepted")


def _bytes_of(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)


# Member -> whether it says of a record what its description promises.
LETTER_MEANINGS: Mapping[str, Callable[[Event, ConsumerRecord, Undecodable], bool]] = {
    "reason": lambda data, _, problem: data["reason"] == problem.reason,
    "error": lambda data, _, problem: data["error"] == problem.error,
    "origin": lambda data, record, _: (
        data["origin"]
        == {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": from_milliseconds(record.timestamp).isoformat().replace("+00:00", "Z"),
        }
    ),
    "key_base64": lambda data, record, _: (record.key or b"").startswith(_bytes_of(data["key_base64"]) or b"\0"),
    "value_base64": lambda data, record, _: (
        _bytes_of(data["value_base64"]) == (record.value if data["cut"] is None else record.value[: 1024 * 1024])
    ),
    "headers": lambda data, record, _: (
        [(each["key"], _bytes_of(each["value_base64"])) for each in data["headers"]] == list(record.headers)
    ),
    "cut": lambda data, record, _: (
        data["cut"]
        == (
            {
                "value_size": len(record.value),
                "value_sha256": sha256(record.value).hexdigest(),
                "headers": len(record.headers),
            }
            if len(record.value) > KEPT_BYTES
            else None
        )
    ),
}


@pytest.mark.parametrize("value", [b"\xff{", b"x" * (KEPT_BYTES + 1)], ids=["kept whole", "too large"])
def test_every_field_of_a_dead_letter_says_of_its_record_what_the_contract_promises(value: bytes) -> None:
    """It is no result of the ledger: what it tells of is a record, and why that can never be decided."""
    headers = (("ce_id", b"1"), ("empty", None))
    record = ConsumerRecord(SEND_REQUESTS, 3, 7, 1_900_000_000_250, 0, b"alice", value, None, 5, len(value), headers)
    problem = Undecodable(DeadLetterReason.NOT_JSON, "not JSON: it ends in the middle (line 1, column 1)")

    letter = json.loads(dead_letter(record, problem).value)

    jsonschema.validate(letter, SCHEMAS[LETTER])
    assert _members(LETTER) == set(LETTER_MEANINGS) == set(letter["data"])
    assert [] == [name for name, holds in LETTER_MEANINGS.items() if not holds(letter["data"], record, problem)]
    assert ("alice", str(dead_letter_id(SEND_REQUESTS, 3, 7))) == (letter["subject"], letter["id"])
