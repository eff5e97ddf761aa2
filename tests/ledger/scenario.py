"""Scenario tables: an event a line, with the rows it books and the balances after it; read from text, run on any books.

    scenario: Rule 10: a cancel clamps, taking it back restores
    at 2030-01-01
    activate s-1 premium_career 2030-01-01..2030-02-01   -> granted +5 until 2030-04-01 | balance 5
    cancel s-1 at 2030-01-15                             -> cancelled | balance 5
    advance 14d                                          | balance 0

A line is a command, then `->` and the rows it books (all of them, in order, separated by `;`), then checks, each after
a `|`. A row is its code and its amount, unless that is 0, then any of its columns by name. The commands:

    catalogue limits.paid_sends_per_day = 2     change the catalogue, which is catalogue.toml until then; or `reset` it
    at 2030-01-31T12:00Z, advance 30d           move the clock; `at` can move it back
    send bob as first                           an event (`scenario_events.SYNTAX`); `as` names its request id
    again first                                 the same event once more: `-> repeat charged -1`
    send bob as first behind                    a batch (its first line says it) with records of the other topic unread
    tick at 2030-04-01 read-to 2030-03-31       `at`: what it asks for (else now); `read-to`: what the others have read
    + send carol                                a line that is decided in one batch with the line before it
    carol: send bob                             of another account than alice; so do rows of a tick and checks

and the checks, at the clock's time:

    balance 5;  lots 3 0 5 (what remains of each);  lot 2 open yes until 2030-04-01;  level 1;  erased no;
    booked lots 2 credits 5 (what a tick answers)
"""

import re
import shlex
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from tests.ledger.scenario_events import TICK, Input, Names, Words, read_event, read_instant, read_span
from tests.ledger.scenario_rows import ExpectedRow, read_checks, read_rows
from tests.whole import whole

__all__ = [
    "BASE_CATALOGUE",
    "FOLDER",
    "Scenario",
    "Step",
    "TableError",
    "edited",
    "read_file",
    "read_text",
    "table_cases",
    "table_files",
]

FOLDER = Path(__file__).parent / "scenarios"
BASE_CATALOGUE = tomllib.loads((FOLDER / "catalogue.toml").read_text())
START = datetime(2030, 1, 1, tzinfo=UTC)
_QUOTING = set("\"'\\#")
ACCOUNT = "alice"


class TableError(AssertionError):
    """A table that cannot be read, or that the books contradict. Names the file and the line."""


@dataclass
class Step:
    """One line, or the lines of one batch from the first to the last."""

    place: str  # file and line
    text: str
    now: datetime
    catalogue: dict[str, Any] | None = None
    inputs: list[Input] = field(default_factory=list)
    read_to: datetime | None = None
    rows: list[list[ExpectedRow]] = field(default_factory=list)  # of each input
    checks: list[tuple[str, list[str]]] = field(default_factory=list)  # account and words

    def fail(self, problem: str) -> TableError:
        """Return what is raised when the books say otherwise."""
        return TableError(f"{self.place}: {self.text}\n{problem}")


@dataclass
class Scenario:
    """One story."""

    file: str
    line: int
    title: str
    steps: list[Step] = field(default_factory=list)

    def __str__(self) -> str:
        return re.sub(r"\W+", "_", f"{Path(self.file).stem} {self.title}").strip("_")


def table_files(*anchors: int) -> list[Any]:
    """Return the files of tables as a test's cases; of those of full years `make test` plays some anchor days'.

    The six say one rule of six days of a month, in more lines than all others together. The oracle plays them all.
    """
    days = {f"year_{anchor:02}" for anchor in anchors}
    files = sorted(FOLDER.glob("*.txt"))
    return [whole(path) if path.stem.startswith("year_") and path.stem not in days else path for path in files]


def table_cases(*anchors: int) -> list[Any]:
    """Return the scenarios of those files, one by one, as a test's cases."""
    played = {path for path in table_files(*anchors) if isinstance(path, Path)}
    return [
        each if path in played else whole(each) for path in sorted(FOLDER.glob("*.txt")) for each in read_file(path)
    ]


def edited(catalogue: dict[str, Any], setting: str) -> dict[str, Any]:
    """Return a catalogue with one entry changed, like `limits.paid_sends_per_day = 2`."""
    path, equals, value = (part.strip() for part in setting.partition("="))
    if not equals:
        raise ValueError("expected a setting like limits.paid_sends_per_day = 2")
    changed = deepcopy(catalogue)
    *parents, name = path.split(".")
    table = changed
    for parent in parents:
        table = table.setdefault(parent, {})
    table[name] = tomllib.loads(f"value = {value}")["value"]
    return changed


@cache
def read_file(path: Path) -> tuple[Scenario, ...]:
    """Return the scenarios of a file, which is read once a process: nobody changes them."""
    return tuple(read_text(path.read_text(), path.name))


def read_text(text: str, file: str) -> list[Scenario]:
    """Return the scenarios of a text.

    Raises:
        TableError: naming the line that cannot be read.

    """
    scenarios: list[Scenario] = []
    reader: _Reader | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            if line.startswith("scenario:"):
                scenarios.append(Scenario(file, number, line.removeprefix("scenario:").strip()))
                reader = _Reader(scenarios[-1])
            elif reader is None:
                raise ValueError("expected a line `scenario: title` first")  # noqa: TRY301 - it wants the place too
            else:
                reader.read(f"{file}:{number}", line)
        except ValueError as error:
            raise TableError(f"{file}:{number}: {line}\n{error}") from error
    return scenarios


class _Reader:
    """Reads the lines of one scenario into steps."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._catalogue = BASE_CATALOGUE
        self._now = START
        self._names = Names()
        self._named: dict[tuple[str, str], Input] = {}
        self._unnamed = 0

    def read(self, place: str, line: str) -> None:
        """Read one line."""
        if line.startswith("catalogue "):
            setting = line.removeprefix("catalogue ").partition(" #")[0].strip()
            self._catalogue = BASE_CATALOGUE if setting == "reset" else edited(self._catalogue, setting)
            self._scenario.steps.append(Step(place, line, self._now, catalogue=self._catalogue))
            return
        command, rows, checks = _split(line)
        joins = command[0] == "+"
        account, words = _account(command[joins:])
        step = self._joined(place, line) if joins else Step(place, line, self._now)
        if words[0] in {"at", "advance"}:
            self._move(Words(words))
            step.now = self._now
            if rows is not None:
                raise ValueError("a clock books no rows")
        else:
            self._event(step, account, Words(words), rows)
        step.checks = [(check_account or account, check) for check_account, check in read_checks(checks)]
        if not joins:
            self._scenario.steps.append(step)

    def _joined(self, place: str, line: str) -> Step:
        """Return the step that a line with a + continues."""
        step = self._scenario.steps[-1] if self._scenario.steps else None
        if not step or not step.inputs or step.inputs[0].type == TICK:
            raise ValueError("a line with + continues the batch of an event")
        if step.checks:
            raise ValueError("only the last line of a batch can have checks: they are made when all of it is decided")
        step.place, step.text = place, f"{step.text}\n{line}"
        return step

    def _move(self, words: Words) -> None:
        verb = words.take("at or advance")
        self._now = (
            read_instant(words.take("an instant")) if verb == "at" else self._now + read_span(words.take("span"))
        )
        words.end()

    def _event(self, step: Step, account: str, words: Words, rows: list[str] | None) -> None:
        if rows is None:
            raise ValueError("expected -> and the rows that the event books")
        if words.take_if("again"):
            name = words.take("a name")
            if (account, name) not in self._named:
                raise ValueError(f"{account} has no earlier event named {name!r}")
            input_ = self._named[account, name].at(self._now)
        else:
            input_ = self._new(step, account, words)
        input_ = input_.at(self._now, behind=words.take_if("behind") or bool(step.inputs and step.inputs[0].behind))
        words.end()
        step.inputs.append(input_)
        step.rows.append(read_rows(rows))

    def _new(self, step: Step, account: str, words: Words) -> Input:
        type_, data = read_event(words, self._names)
        if type_ == TICK:
            account = ""
            data.setdefault("as_of", self._now)
            if words.take_if("read-to"):
                step.read_to = read_instant(words.take("an instant"))
        name = words.take("a name") if words.take_if("as") else self._fresh_name()
        input_ = Input(type_, account, self._names.id_of(name), data, self._now)
        self._named.setdefault((account or ACCOUNT, name), input_)
        return input_

    def _fresh_name(self) -> str:
        self._unnamed += 1
        return f"unnamed {self._unnamed}"


def _split(line: str) -> tuple[list[str], list[str] | None, list[list[str]]]:
    """Return a line's command, its rows (None where it has no ->) and its checks, as words."""
    spaced = re.sub(r"(;|\|)", r" \1 ", line)
    # What has nothing to quote is split at once: each process of a test run reads all tables.
    words = shlex.split(spaced, comments=True) if _QUOTING & set(line) else spaced.split()
    head, *checks = _groups(words, "|")
    command, *rows = _groups(head, "->")
    if len(rows) > 1:
        raise ValueError("expected one -> at most")
    if not command:
        raise ValueError("expected a command")
    return command, rows[0] if rows else None, checks


def _groups(words: list[str], separator: str) -> Iterator[list[str]]:
    """Return the words between separators."""
    group: list[str] = []
    for word in words:
        if word == separator:
            yield group
            group = []
        else:
            group.append(word)
    yield group


def _account(words: list[str]) -> tuple[str, list[str]]:
    """Return whom a command is about, and the rest of it."""
    if words and words[0].endswith(":"):
        words, prefix = words[1:], words[0]
        if not words:
            raise ValueError(f"expected a command after {prefix}")
        return prefix.removesuffix(":"), words
    return ACCOUNT, words
