"""What a soak's verdict, page and picture say of a run."""

from random import Random
from typing import Any
from xml.etree import ElementTree as ET

from tests.soak.page import render
from tests.soak.picture import picture
from tests.soak.verdict import failures, latency_trends

_MINUTES = 60


def _life(dice: Random, first: int, last: int, leak: float = 0.0, files: float = 0.0) -> list[dict[str, Any]]:
    return [
        {"minute": minute, "memory_kb": 80_000 + leak * minute + dice.gauss(0, 50), "files": 25 + int(files * minute),
         "kafka": 8, "postgres": 2}
        for minute in range(first, last + 1)
    ]  # fmt: skip


def _run(**changes: Any) -> dict[str, Any]:
    """Return what a sound hour writes: one steady process, and one that leaks in each of its lives of 12 minutes."""
    dice = Random(1)  # noqa: S311 - a workload
    minutes = [
        {"minute": minute, "pace": 300, "records": 299.5, "sends": 250.0, "p50_ms": 50.0 + dice.gauss(0, 5),
         "p99_ms": 30_000.0 if minute % 12 == 1 else 150.0 + dice.gauss(0, 20), "unanswered": 10,
         "skipped": 1_200 if minute == 13 else 0,
         "restarted": "send-2 SIGKILL" if minute % 12 == 1 else ""}
        for minute in range(1, _MINUTES + 1)
    ]  # fmt: skip
    return {
        "began": "2026-11-29T11:00+00:00",
        "minutes": minutes,
        "order": {"minutes": _MINUTES, "restart_minutes": 4, "seed": 1, "pace": 1.0, "partitions": 12},
        "processes": {
            "send-1": {"steady": True, "lives": [_life(dice, 1, _MINUTES)]},
            "send-2": {"steady": False, "lives": [_life(dice, at, at + 11, leak=300) for at in range(1, 60, 12)]},
        },
        "published": 1_000_000,
        "answered": 1_100_000,
        "unread": 0,
        "visits": 1_000,
        "audit_checks": 40,
        **{name: [] for name in ("lost", "unasked", "gaps", "audit", "bad_ends", "failed_visits", "server_errors")},
        **changes,
    }


def test_a_sound_hour_has_nothing_to_say() -> None:
    """Neither the growth of a process that is restarted counts, nor the minutes in which one is killed."""
    run = _run()

    assert failures(run) == []
    assert [trend is not None and trend.is_flat for trend in latency_trends(run).values()] == [True, True]
    assert "no figure of a process that was never restarted has a slope" in render(run, "")


def test_what_grows_in_a_process_that_is_never_restarted_is_named() -> None:
    """Memory and open files alike; the page says so in the process's line and in the verdict."""
    leaking = {"steady": True, "lives": [_life(Random(2), 1, _MINUTES, leak=20, files=0.2)]}  # noqa: S311 - a workload
    run = _run(processes={"send-1": leaking})

    found = failures(run)

    assert [line.partition(" changes")[0] for line in found] == ["send-1: memory, KB", "send-1: open files"]
    assert "told from zero**" in render(run, "")
    assert all(f"- {line}" in render(run, "") for line in found)


def test_a_broken_promise_is_named() -> None:
    """Each kind of it, with the first places."""
    found = failures(_run(lost=["id-1"], unread=3, bad_ends=["lag ended with code 1 on SIGTERM"]))

    assert len(found) == 3
    assert "id-1" in found[0]


def test_pages_that_are_not_answered_break_a_promise_above_a_share_and_errors_of_a_server_always() -> None:
    """A page that somebody waited for once too long does not; an API that answers nothing does."""
    one, many = ["api/v1/accounts/member-000001/balance: TimeoutError()"], ["console/api/overview: TimeoutError()"] * 2

    assert failures(_run(failed_visits=one)) == []
    assert ["2 of 1000 visits to pages failed"] == [
        line.partition(":")[0] for line in failures(_run(failed_visits=many))
    ]
    assert ["0 of 0 visits"] == [line[:13] for line in failures(_run(failed_visits=[], visits=0))]
    assert ["1 visits to pages were answered by an error of the server"] == [
        line.partition(":")[0] for line in failures(_run(server_errors=["api/v1/health: 503"]))
    ]


def test_the_page_says_how_many_records_no_latency_tells_of() -> None:
    """A load that waits sends less: without them the figures would look better the longer it waits."""
    text = " ".join(render(_run(), "").split())

    assert "1,200 of 1,079,400 records that were due were skipped, in 1 of 60 minutes" in text


def test_the_page_says_what_a_run_of_a_version_before_did_not_count() -> None:
    """It is no promise kept, and no reason not to render the run."""
    run = _run()
    del run["server_errors"]
    for minute in run["minutes"]:
        del minute["skipped"]

    text = " ".join(render(run, "").split())

    assert "and an unknown number with a status of 500 or more" in text
    assert "how many records were skipped so is not known of this run" in text


def test_the_page_says_what_ran_beside_and_the_picture_is_well_formed() -> None:
    """A line for each figure of each process that has one, a piece for each of its lives."""
    run = _run()
    drawn = ET.fromstring(picture(run))  # noqa: S314 - our own text

    assert "The machine did other work, too." in render(run, "The machine did other work, too.")
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}polyline")) == 1 + 2 + 1 + 5
