"""The contract's words are true of what workers write, and the check of them sees what is not."""

import copy
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from infra.postgres import Connection
from schemas.catalogue import CATALOGUE
from tests.ledger.scenario import FOLDER, read_file
from tests.ledger.scenario_run import run
from tests.ledger.test_scenarios import rolled_back
from tests.workers.balance_contract import BALANCE, BALANCE_MEANINGS
from tests.workers.contract import MEANINGS, SCHEMAS, TICK_MEMBERS, InputRecord, broken_words_of_all, records_of

RESULTS = [row.name for row in CATALOGUE if row.direction == "out" and row.name != "inmail.message.dead-lettered.v1"]
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
