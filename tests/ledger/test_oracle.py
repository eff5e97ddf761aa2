"""The oracle does what the tables say, and the tables say where they are contradicted."""

import pytest

from tests.ledger.oracle import Oracle
from tests.ledger.oracle_state import Request
from tests.ledger.scenario import FOLDER, Scenario, TableError, read_file, read_text
from tests.ledger.scenario_books import OracleBooks
from tests.ledger.scenario_run import run
from tests.ledger.scenario_years import ANCHORS, year_file, year_tables

SCENARIOS = [scenario for path in sorted(FOLDER.glob("*.txt")) for scenario in read_file(path)]

STORY = """
scenario: a story
promotion 3 of welcome                         -> granted +3 | balance 3
send bob as first                              -> charged -1 lot 1 after 2
again first                                    -> repeat charged -1 | balance 2
"""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_the_oracle_does_what_the_table_says(scenario: Scenario) -> None:
    """Each line's rows, in order, and the checks behind them; no credit is made or lost in between (rule 18)."""
    await run(scenario, OracleBooks())


def test_every_rule_has_a_table_that_names_it() -> None:
    """A rule that no table speaks of would be a rule that nobody tested."""
    titles = " ".join(scenario.title + " " for scenario in SCENARIOS).replace(":", " ").replace(",", " ")

    silent = [number for number in range(1, 21) if f"Rule {number} " not in titles]

    assert [] == silent


@pytest.mark.parametrize("anchor", ANCHORS)
def test_the_tables_of_a_year_are_those_that_counting_days_gives(anchor: int) -> None:
    """The files are made by `python -m tests.ledger.scenario_years`, from an anchor day and a year."""
    assert year_tables(anchor) == (FOLDER / year_file(anchor)).read_text()


# -- what a table says when it is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("granted +3 |", "granted +4 |", "story.txt:3: .*\n  expected: granted \\+4\n  got: granted \\+3"),
        ("balance 3", "balance 4", "story.txt:3: .*\n  expected: balance 4\n  got: balance 3"),
        ("lot 1 after 2", "lot 2 after 2", "story.txt:4: .*\n  expected: .* lot 2 after 2\n  got: .* lot 1 after 2"),
        ("lot 1 after 2", "; low", "story.txt:4: .*\n  expected: charged -1; low\n  got: charged -1"),
        ("charged -1 lot", "free; charged -1 lot", "story.txt:4: "),
        ("repeat charged -1", "charged -1", "story.txt:5: .*\n  expected: charged -1\n  got: repeat charged -1"),
        ("charged -1 lot 1 after 2", "nothing", "story.txt:4: .*\n  expected: nothing\n  got: charged -1 lot 1 .*"),
    ],
)
async def test_a_table_that_the_books_contradict_names_the_line(right: str, wrong: str, message: str) -> None:
    """The file, the line, what was expected and what there is, in the table's own words."""
    (scenario,) = read_text(STORY.replace(right, wrong), "story.txt")

    with pytest.raises(TableError, match=message):
        await run(scenario, OracleBooks())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sned bob -> charged -1", "sned"),
        ("send bob", "expected ->"),
        ("send bob -> ", "expected the code"),
        ("send bob -> charged -1 lot", "expected pairs"),
        ("send bob friend -> charged -1", "did not expect 'friend'"),
        ("cancel s-1 2030-01-01 -> cancelled", "expected 'at'"),
        ("cancel s-1 at tomorrow -> cancelled", "tomorrow"),
        ("activate s-1 premium_career 2030-01-01 -> granted +5", "isoformat"),
        ("promotion many of welcome -> granted +1", "many"),
        ("again third -> repeat charged -1", "no earlier event named 'third'"),
        ("advance 3 weeks", "expected a span of time"),
        ("advance 3d -> charged -1", "a clock books no rows"),
        ("send bob -> charged -1 | balances 3", "expected a check"),
        ("catalogue low_balance 3", "expected a setting"),
        ("+ send carol -> charged -1", "continues the batch"),
        ("carol: -> charged -1", "expected a command after carol:"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, message: str) -> None:
    """The file and the line, and what was expected there."""
    text = f"scenario: broken\nat 2030-01-01\n{line}\n"

    with pytest.raises(TableError, match=f"^broken.txt:3: [^\n]*\n.*{message}"):
        read_text(text, "broken.txt")


def test_a_command_before_any_scenario_is_refused() -> None:
    """A table has a title."""
    with pytest.raises(TableError, match=r"^untitled.txt:1: .*\nexpected a line `scenario: title` first"):
        read_text("send bob -> charged -1", "untitled.txt")


class CreditFromNowhere(Oracle):
    """Gives a credit with each free send, without a row for it."""

    def decide(self, request: Request) -> list:
        """Decide, and be generous."""
        rows = super().decide(request)
        if any(row.code == "free" for row in rows):
            self.accounts[request.account].lots[0].remaining += 1
        return rows


async def test_a_credit_that_no_row_accounts_for_is_found_after_the_line_that_made_it() -> None:
    """Rule 18 is looked at after each line, whatever the table asks."""
    story = STORY + "send carol connection -> free\nsend dave -> charged -1\n"
    (scenario,) = read_text(story, "story.txt")

    with pytest.raises(TableError, match=r"story.txt:6: send carol .*\nalice: lot 1: has 3, booked 2"):
        await run(scenario, OracleBooks(oracle=CreditFromNowhere))
