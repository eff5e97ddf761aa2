"""Plays a scenario on books, line by line; says where the table and the books disagree."""

from typing import Any

from tests.ledger.scenario import BASE_CATALOGUE, Scenario, Step
from tests.ledger.scenario_books import Books, check_conservation
from tests.ledger.scenario_events import TICK, Input
from tests.ledger.scenario_rows import ExpectedRow, write_lot, write_row, write_value

__all__ = ["play_unchecked", "run"]


async def run(scenario: Scenario, books: Books) -> None:
    """Play a scenario. After each line, all of it has to be as the table says, and no credit be made or lost by it.

    Raises:
        TableError: naming the first line that the books contradict.

    """
    await books.use(BASE_CATALOGUE)
    accounts: set[str] = set()
    for step in scenario.steps:
        accounts |= {input_.account for input_ in step.inputs if input_.account}
        summary = _compare_decided(step, await _decide(step, books))
        for account, check in step.checks:
            _compare(step, " ".join(check), await _look(step, books, account, check, summary))
        for account in sorted(accounts) if step.inputs else ():  # a clock or a catalogue moves no credit
            try:
                await check_conservation(books, account)
            except AssertionError as problem:
                raise step.fail(f"{account}: {problem}") from None


async def play_unchecked(scenario: Scenario, books: Books) -> None:
    """Play a scenario for what it leaves in the books. Whether its table is right is for `run` to say."""
    await books.use(BASE_CATALOGUE)
    for step in scenario.steps:
        await _decide(step, books)


async def _decide(step: Step, books: Books) -> list[list[dict[str, Any]]]:
    """Take a step's catalogue and decide its events; return the rows of each, and after a tick's rows its answer."""
    if step.catalogue:
        await books.use(step.catalogue)
    if not step.inputs:
        return []
    if step.inputs[0].type == TICK:
        return [await books.tick(step.inputs[0], step.read_to)]
    return await books.decide(step.inputs)


def _compare_decided(step: Step, decided: list[list[dict[str, Any]]]) -> dict[str, Any] | None:
    """Compare the rows of a step's events; return what a tick answered."""
    summary = None
    if step.inputs and step.inputs[0].type == TICK:
        *rows, summary = decided[0]
        decided = [rows]
    for input_, expected, rows in zip(step.inputs, step.rows, decided, strict=True):
        _compare_rows(step, input_, expected, rows)
    return summary


def _compare_rows(step: Step, input_: Input, expected: list[ExpectedRow], rows: list[dict[str, Any]]) -> None:
    """Compare all rows that one event booked; each is written with the columns that the table names."""
    written = [row.as_this_row_would_be(actual) for row, actual in zip(expected, rows, strict=False)]
    written += [write_row(row, "lot", "until", "next", "before", "after") for row in rows[len(expected) :]]
    say = "; ".join(map(str, expected)) or "nothing"
    _compare(step, say, "; ".join(written) or "nothing", f" to {input_.type}" if len(step.inputs) > 1 else "")


async def _look(step: Step, books: Books, account: str, check: list[str], summary: dict[str, Any] | None) -> str:
    """Return what the books say where a check was made, in the check's own words."""
    what, *words = check
    match what:
        case "balance":
            found = [str(await books.balance(account, step.now))]
        case "level" | "erased":
            found = [write_value((await books.account(account))[what])]
        case "lots":
            found = [str(lot["remaining"]) for lot in await books.lots(account)]
        case "lot":
            number, *pairs = words
            lots = {str(lot["lot"]): lot for lot in await books.lots(account)}
            found = [number, *write_lot(lots[number], pairs[::2])] if number in lots else ["is not there"]
        case _:
            found = [f"{name} {write_value((summary or {}).get(name))}" for name in words[::2]]
    return " ".join([what, *found])


def _compare(step: Step, expected: str, actual: str, which: str = "") -> None:
    if expected != actual:
        raise step.fail(f"  expected{which}: {expected}\n  got{which}: {actual}")
