"""Renders `docs/states.md` from what the last run wrote: `python -m tests.states.table`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

from tests.states.__main__ import FILE
from tests.states.picture import late_seconds, picture
from tests.states.surfaces import ALERTS, COMMAND, CONSOLE, ENDPOINT, LOG, METRICS, READYZ

__all__ = ["DOCUMENT", "render"]

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "states.md"
PICTURE: Final = DOCUMENT.parent / "images" / "states.svg"

_SAID: Final = 240  # characters of a sentence

_PENDING: Final = f"{ALERTS}, pending"
_COLUMNS: Final = {
    COMMAND: "`inmail lag --json`",
    ENDPOINT: "`/lag`",
    METRICS: "`/metrics`",
    READYZ: "`/readyz`",
    LOG: "log",
    CONSOLE: "console",
    _PENDING: "alert, pending",
    ALERTS: "alert, firing",
}

_HEAD: Final = """# How soon each surface says so

`make states` starts real Kafka and Postgres, the workers, the ticker, `inmail lag --serve`, `inmail metrics --serve`,
`inmail api`, `inmail console` and a Prometheus with our scrape configuration and rules, under 20 requests a second. It
causes one state after another, and notes what each surface says until all of them say the right thing, and until all
are calm after its end. Settings are those that ship, but for four partitions a topic. The state of two Postgres servers
is caused on a stack of its own, with workers for each (`send-pg2`).

This page is rendered by `python -m tests.states.table` from runs of {days}; each state says when it was caused, and
`python -m tests.states STATE` measures one anew. The machine has two cores; at the beginning of a state its load was
{least} to {most}. Above 2, other work held the processes up: most of all `inmail lag --json`, a new process each time.

`inmail lag --json` is run again and again, each time as an observer that has seen nothing before; its own start is in
its time. `/lag` and `/metrics` are asked each second: the latter of the lag's observer and of the workers. The log is
that of the workers. The console's right word is its headline, what the page says first: it looks
every 2 s, and is asked as often, `lag --serve` every 5 s, Prometheus every 5 s. Numbers in a headline are N here.

## From the cause to the right word, in seconds

**Bold** is more than 10 s, or not said while the state lasted. A dash: that surface has nothing to say, for the
reason below. An alert that fires calls somebody: what may pass by itself has to last 30 s for that, so there bold is
more than a minute.

"""

_PICTURE: Final = """
![The same figures on a time axis, a line a state](images/states.svg)
"""

_CALM: Final = """
## From the end of the cause until it is calm again, in seconds

Calm is every word of the surface, and stays. A worker that was started takes its time in it, and what waited is read.
**Bold** is more than a minute.

"""

_WORDS: Final = """
## What each surface said, by state

As it was said; *right* is what it has to say, *before* and *beside* what it also said, and when.

"""


def render(run: Mapping[str, Any]) -> str:
    """Return the page for a run."""
    states = run["states"]
    loads = [state["machine_load"] for state in states.values()]
    days = " and ".join(sorted({state["at"].partition("T")[0] for state in states.values()}))
    lines = [_HEAD.format(days=days, least=f"{min(loads):.0f}", most=f"{max(loads):.0f}")]
    lines += [*_table(states, "told_seconds"), _PICTURE, _CALM, *_table(states, "calm_seconds"), "", _WORDS]
    for name, state in states.items():
        lines += [*_section(name, state), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _table(states: Mapping[str, Any], figure: str) -> Iterator[str]:
    yield "| state | " + " | ".join(_COLUMNS.values()) + " |"
    yield "|---|" + "---|" * len(_COLUMNS)
    for name, state in states.items():
        if state["heard"]:
            yield f"| {name} | " + " | ".join(_cell(state, surface, figure) for surface in _COLUMNS) + " |"


def _cell(state: Mapping[str, Any], surface: str, figure: str) -> str:
    heard = state["heard"].get(surface)
    if heard is None:
        return "-"
    seconds = heard[figure]
    if seconds is None:
        return "**not said**" if figure == "told_seconds" else "**not in time**"
    return f"{seconds:.0f}" if round(seconds) <= late_seconds(surface, figure) else f"**{seconds:.0f}**"


def _section(name: str, state: Mapping[str, Any]) -> Iterator[str]:
    at = state["at"].replace("T", " ").removesuffix("+00:00")
    lasted = f"{state['lasted_seconds']:.0f} s"
    yield f"<details><summary><b>{name[0].upper()}{name[1:]}</b></summary>\n"
    yield f"Cause, at {at} UTC: {state['how']}. End, after {lasted}: {state['until']}.\n"
    for surface, title in _COLUMNS.items():
        if surface in state["heard"]:
            yield from _item(title, surface, state)
    quiet: dict[str, list[str]] = {}
    for surface, why in state["silent"].items():
        quiet.setdefault(why, []).append(_COLUMNS[surface] if surface != ALERTS else "alerts")
    for why, titles in quiet.items():
        yield f"- {', '.join(titles)}: {why}."
    false = [f"{surface}: {_listed(words)}" for surface, words in state["false"].items() if words]
    if false:
        yield f"- What these said meanwhile: {'; '.join(false)}."
    yield "\n</details>"


def _item(title: str, surface: str, state: Mapping[str, Any]) -> Iterator[str]:
    heard = state["heard"][surface]
    right = state["right"].get(surface)
    said = (
        f"“{shorten(_plain(heard['said']), _SAID, placeholder=' ...')}”"
        if heard["told_seconds"] is not None
        else "the right thing was not said"
    )
    wanted = f" (right: {_wanted(right[0])} says {_wanted(right[1])})" if right is not None else ""
    yield f"- {title}: {said}{wanted}"
    if heard["before"]:
        yield f"  - before: {_listed(heard['before'])}"
    if heard["beside"]:
        yield f"  - beside: {_listed(heard['beside'])}"


def _wanted(pattern: str) -> str:
    """Return a pattern as it is, or its alternatives where it is nothing but these."""
    return f"`{pattern}`" if "(" in pattern else f"`{pattern.replace('|', '` or `')}`"


def _listed(words: list[str]) -> str:
    return _plain("; ".join(words))


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    written = json.loads(FILE.read_text())
    DOCUMENT.write_text(render(written))
    PICTURE.write_text(picture(written["states"], _COLUMNS))
