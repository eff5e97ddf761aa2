"""What is read off the notes of a run, and that the page shows what is late, false or not said."""

import re
from typing import Any

import pytest

from tests.states.members import OBSERVERS
from tests.states.prometheus import configuration
from tests.states.states import STATES
from tests.states.surfaces import ALERTS, CONSOLE, ENDPOINT, LOG, SURFACES
from tests.states.table import render
from tests.states.timeline import Right, Timeline, Word
from tests.states.verdict import failures
from workers.local.processes import WORKERS, member_names

CAUSED, ENDED = 100.0, 150.0
STOPPED = Right("inmail-send", "STOPPED")


def _said(*words: tuple[float, dict[str, str]]) -> Timeline:
    timeline = Timeline()
    for at, said in words:
        timeline.note(ENDPOINT, {subject: Word(word, f"why {word}") for subject, word in said.items()}, at)
    return timeline


def test_a_word_is_right_from_when_it_is_first_said_and_calm_is_what_stays() -> None:
    """A wrong word before it is told, others' words beside it, and a calm that does not last is none."""
    timeline = _said(
        (90, {"inmail-send": "OK"}),
        (110, {"inmail-send": "STALLED", "inmail-expiry": "WAITING"}),
        (130, {"inmail-send": "STOPPED"}),
        (155, {"inmail-send": "OK"}),
        (156, {"inmail-send": "SLOW"}),
        (160, {"inmail-send": "OK"}),
    )

    heard = timeline.heard(ENDPOINT, STOPPED, CAUSED, ENDED, {})

    assert (30.0, "inmail-send: STOPPED. why STOPPED", 10.0) == (heard.told_seconds, heard.said, heard.calm_seconds)
    assert ["inmail-send: STALLED (10 s)"] == heard.before
    assert ["inmail-expiry: WAITING (10 s)"] == heard.beside


def test_what_is_never_said_is_not_made_up() -> None:
    """Neither the right word nor calm."""
    timeline = _said((90, {"inmail-send": "OK"}), (110, {"inmail-send": "SLOW"}))

    heard = timeline.heard(ENDPOINT, STOPPED, CAUSED, ENDED, {})

    assert (None, "", None) == (heard.told_seconds, heard.said, heard.calm_seconds)
    assert ["inmail-send: SLOW (10 s)"] == heard.before


def test_what_was_said_before_the_cause_is_no_news() -> None:
    """An alert that fired before, of a window of minutes, neither answers nor disturbs."""
    timeline = _said((90, {"InmailDeadLetters send": "firing"}), (170, {}))
    before = {"InmailDeadLetters send": Word("firing")}

    assert 0.0 == timeline.heard(ENDPOINT, STOPPED, CAUSED, ENDED, before).calm_seconds
    assert 20.0 == timeline.heard(ENDPOINT, STOPPED, CAUSED, ENDED, {}).calm_seconds
    assert [] == timeline.troubles(ENDPOINT, CAUSED, ENDED, before)
    assert ["InmailDeadLetters send: firing (0 s)"] == timeline.troubles(ENDPOINT, CAUSED, ENDED, {})
    assert [] == timeline.troubles(ENDPOINT, 171.0, 180.0, {})


def test_what_an_observer_said_before_it_was_started_again_does_not_count() -> None:
    """It has to say it anew."""
    timeline = _said(
        (90, {"inmail-send": "STOPPED"}), (101, {"observer": "no answer"}), (112, {"inmail-send": "STOPPED"})
    )

    assert 12.0 == timeline.heard(ENDPOINT, STOPPED, CAUSED, ENDED, {}).told_seconds


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_each_surface_has_a_right_word_in_each_state_or_a_reason_to_be_silent(state: Any) -> None:
    """None is forgotten."""
    assert set(SURFACES) == {*state.rights, *state.silent}
    assert not {*state.rights} & {*state.silent}
    assert state.may_speak <= {*state.silent}


def _found(**changes: Any) -> dict[str, Any]:
    """Return what a run finds of a state in which all is right."""
    heard = {
        ENDPOINT: {"told_seconds": 6.4},
        CONSOLE: {"told_seconds": 1.0},
        f"{ALERTS}, pending": {"told_seconds": None},
    }
    return {
        "calm": True, "heard": heard, "right": {ENDPOINT: ["inmail-send", "HELD"], CONSOLE: ["headline", "warning"]},
        "silent": {ALERTS: "it passes", LOG: "it is stopped"}, "may_speak": [LOG],
        "false": {ALERTS: [], LOG: ["send worker_stopped: logged (0 s)"]}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"heard": {ENDPOINT: {"told_seconds": None}}}, ["lag endpoint did not say the right thing"]),
        (
            {"false": {ALERTS: ["InmailBehind: firing (9 s)"]}},
            ["alerts said, though it passes: InmailBehind: firing (9 s)"],
        ),
        ({"calm": False}, ["not all were calm in time after its end"]),
    ],
    ids=["all is right", "not said", "false alarm", "not calm"],
)
def test_a_run_fails_on_what_is_not_said_what_is_said_for_nothing_and_what_stays(
    changes: dict[str, Any], wrong: list[str]
) -> None:
    """A pending alert need not be seen, and what is said of how a state is caused is no false alarm."""
    assert wrong == failures(_found(**changes))


def test_the_page_shows_what_is_late_and_what_was_not_said() -> None:
    """In bold, beside what was in time."""
    heard = {"said": "", "before": [], "beside": [], "calm_seconds": 3.0}
    state = {
        "how": "a cause", "until": "its end", "lasted_seconds": 100.0, "machine_load": 2.0, "at": "2026-01-31T10:00Z",
        "heard": {ENDPOINT: heard | {"told_seconds": 6.4}, CONSOLE: heard | {"told_seconds": 61.0},
                  ALERTS: heard | {"told_seconds": None}},
        "right": {ENDPOINT: ["inmail-send", "HELD|SLOW"]}, "silent": {}, "false": {},
    }  # fmt: skip

    page = render({"states": {"worker stopped": state}})

    assert "| worker stopped | - | 6 | - | - | - | **61** | - | **not said** |" in page
    assert "(right: `inmail-send` says `HELD` or `SLOW`)" in page


def test_a_run_starts_every_process_that_prometheus_scrapes() -> None:
    """A target without a process would end the run before its first state."""
    assert "api:8080" in configuration(dict.fromkeys((*WORKERS, *OBSERVERS), 1))


def test_each_worker_of_each_postgres_server_is_scraped_under_its_name() -> None:
    """Otherwise nobody would be called for those of one server."""
    written = configuration(dict.fromkeys((*member_names(1, databases=2), *OBSERVERS), 1))

    assert {"send-pg1:8080", "expiry-pg2:8080", "ticker:8080"} <= set(re.findall(r"[\w-]+:8080", written))
    assert "send:8080" not in written
