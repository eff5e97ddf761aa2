"""Renders `docs/versions.md` from what the last run wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.versions.trial import OWN_KAFKA, OWN_POSTGRES

__all__ = ["DOCUMENT", "FILE", "render"]

FILE: Final = Path("build") / "versions.json"
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "versions.md"

_HEAD: Final = """# Which versions of Kafka and Postgres

`make versions` starts each of these servers and runs the whole system on it: `inmail migrate`, `topics plan` and
`apply`, `doctor`, the four workers, {events} answers, a rewind and their publication again, and `inmail audit`. This
page is rendered from its run of {day}. Beside each Kafka runs Postgres {postgres}, beside each Postgres Kafka {kafka}.

- **works**: every request has its answer, once, and nothing is said.
- **warns**: the same in this run; `inmail doctor`, each worker at its start and `inmail topics plan` say what speaks
  against this version.
- **refused**: `inmail migrate` and operators' commands end at once and say why, so no worker finds its tables.

| server | verdict | what is said |
|---|---|---|
"""

_TAIL: Final = """
Of versions that are not in the table, `inmail doctor` warns, and Postgres older than 15 is refused. A trial shows that
a version works, not that it keeps its promises in a crash: the [crash matrix](crash-matrix.md) ran on Kafka 4.2.1,
and faults on 4.0.2 as well ([which Kafka](kafka-versions.md)). Figures are of Kafka {kafka} and Postgres {postgres}.
"""


def render(found: Mapping[str, Any]) -> str:
    """Return the page for what a run found."""
    trials = found["trials"]
    events = max(sum(each["answers"].values()) for each in trials)
    rows = sorted(_row("Kafka", each["kafka"], each) for each in trials if each["postgres"] == OWN_POSTGRES)
    rows += sorted(_row("Postgres", each["postgres"], each) for each in trials if each["kafka"] == OWN_KAFKA)
    head = _HEAD.format(events=events, day=found["day"], kafka=OWN_KAFKA, postgres=OWN_POSTGRES)
    return head + "\n".join(rows) + "\n" + _TAIL.format(kafka=OWN_KAFKA, postgres=OWN_POSTGRES)


def _row(server: str, version: str, trial: Mapping[str, Any]) -> str:
    said = trial["doctor"] or trial["worker"] or trial["plan"]
    return f"| {server} {version} | {trial['verdict']} | {said.replace('|', '/')} |".replace("|  |", "| |")
