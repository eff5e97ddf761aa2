"""A reader finds the answer among the events of a request, as docs/events.md says: its id says the same."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any
from uuid import UUID

from infra.postgres import Connection
from schemas.catalogue import CATALOGUE
from schemas.ids import answer_id
from tests.ledger.scenario import FOLDER, read_file
from tests.ledger.scenario_run import run
from tests.ledger.test_scenarios import rolled_back
from tests.whole import ALL

PAGE = Path(__file__).parents[3] / "docs" / "events.md"
# Where there is one of a type, the one with the lowest sequence; the first of these types counts.
ANSWERS = (
    "inmail.send.decided.v1",
    "inmail.report.decided.v1",
    "inmail.billing.decided.v1",
    "inmail.credits.reversed.v1",
    "inmail.credits.granted.v1",
    "inmail.credits.voided.v1",
)
NOT_OF_THE_REQUEST = ("key_conflict", "balance_not_current")

Event = dict[str, Any]


def _answer(told: list[Event]) -> Event | None:
    """Return the answer among the events of one account's request, by the page's words."""
    for name in ANSWERS:
        if found := [event for event in told if event["type"] == name]:
            return min(found, key=lambda event: event["data"]["sequence"])
    return None


async def test_a_reader_finds_the_answer_among_the_events_of_a_request(shared: Connection) -> None:
    """In all scenarios, or some of each file: a movement is never an answer, and no request is without one."""
    wrong, kinds = [], set()
    for scenario in (each for path in sorted(FOLDER.glob("*.txt")) for each in read_file(path)[:: 1 if ALL else 5]):
        async with rolled_back(shared) as books:
            await run(scenario, books)
            events = [json.loads(each.value) for each in books.messages]
        requests: dict[tuple[str, str], dict[str, Event]] = defaultdict(dict)
        for event in events:
            if "subject" in event and event["data"]["code"] not in NOT_OF_THE_REQUEST:
                requests[event["subject"], event["data"]["request_id"]].setdefault(event["id"], event)
        for (account, request_id), told in requests.items():
            answer, true = _answer([*told.values()]), told.get(answer_id(account, UUID(request_id)))
            kinds |= {(event["type"], event is true) for event in told.values()}
            if answer is not true:
                wrong.append((str(scenario), answer, true))

    assert [] == wrong
    # Both as an answer and as a movement beside one, so that the rule was needed.
    assert {("inmail.credits.granted.v1", False), ("inmail.credits.voided.v1", False)} <= kinds
    assert {("inmail.credits.granted.v1", True), ("inmail.credits.voided.v1", True)} <= kinds


def test_the_page_says_what_answers_each_event_that_comes_in() -> None:
    """Each input event has its row in the table."""
    (table,) = re.findall(r"## Which event answers\n(.*?)\n## ", PAGE.read_text(), re.DOTALL)

    assert {row.name for row in CATALOGUE if row.direction == "in"} <= set(re.findall(r"`(inmail\.[^`]+)`", table))
