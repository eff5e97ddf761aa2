"""A reader finds the answer among the events of a request, as docs/events.md says: its id says the same."""

import json
import re
from copy import deepcopy
from pathlib import Path

from infra.postgres import Connection
from schemas.catalogue import CATALOGUE
from tests.ledger.request_answers import answers_and_movements, wrong_answers
from tests.ledger.scenario import read_text
from tests.ledger.scenario_run import run
from tests.ledger.test_scenarios import rolled_back

PAGE = Path(__file__).parents[3] / "docs" / "events.md"
# Grants and voids that answer a request, and those that another answer caused.
STORY = """
scenario: Answers and movements of the same types
activate s-1 premium_career 2030-01-01..2030-04-01 annual -> granted +5; granted +5; granted +5
promotion 3 of a                                      -> granted +3
adjust -1 by ops-1 because "a test"                   -> adjusted -1
erase                                                 -> erased; voided -4; voided -5; voided -5; voided -3
"""


async def test_a_movement_is_never_taken_for_an_answer(shared: Connection) -> None:
    """Of types that are both; `tests/ledger/test_scenarios.py` asks the same of each table."""
    (scenario,) = read_text(STORY, "here")
    async with rolled_back(shared) as books:
        await run(scenario, books)
        events = [json.loads(each.value) for each in books.messages]

    both = {("inmail.credits.granted.v1", False), ("inmail.credits.voided.v1", False)}
    both |= {("inmail.credits.granted.v1", True), ("inmail.credits.voided.v1", True)}
    assert both <= answers_and_movements(events)
    assert [] == wrong_answers(events)
    lost = deepcopy(events)
    (erased,) = (event for event in lost if event["data"]["code"] == "erased")
    lost.remove(erased)
    assert [("alice", erased["data"]["request_id"])] == [request for request, *_ in wrong_answers(lost)]


def test_the_page_says_what_answers_each_event_that_comes_in() -> None:
    """Each input event has its row in the table."""
    (table,) = re.findall(r"## Which event answers\n(.*?)\n## ", PAGE.read_text(), re.DOTALL)

    assert {row.name for row in CATALOGUE if row.direction == "in"} <= set(re.findall(r"`(inmail\.[^`]+)`", table))
