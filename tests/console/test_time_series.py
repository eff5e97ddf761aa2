"""The console's time series: buckets, what is kept over a restart, and what the result topics tell."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from infra.settings import RecordTime, load_settings
from schemas.catalogue import DEAD_LETTERS, SEND_REQUESTS
from schemas.dead_letters import DeadLetterReason
from tests.console.scene import Scene, serve_test_console
from tests.console.test_health import lag, lane
from tests.workers.wire import ends, eventually, publish, read, send
from workers.console.flow import Flow, Growth
from workers.console.query_limiter import QueryLimiter
from workers.console.recorder import Recorder
from workers.console.result_tail import Results, ResultTail
from workers.console.time_series import Family, Observation, TimeRange, TimeSeries, latency_class
from workers.console.time_series_file import load_series, save_series

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
GROUP = "inmail-send"


def observation(second: float, records: float = 10, seconds: float = 2, age: float = 0.5) -> Observation:
    """Return a sample of `records` in `seconds`, with a record that waits for `age` seconds."""
    at = NOW + timedelta(seconds=second)
    counts = {Family.CAME_IN: {"records": records}}
    return Observation(at, {Family.CAME_IN: seconds}, counts, {GROUP: age}, {GROUP: records})


def test_a_bucket_has_the_rate_of_its_samples_and_their_largest_lag() -> None:
    """Records and seconds add up before they are divided; a peak of lag is not averaged away."""
    history = TimeSeries()
    for seen in (observation(0, 10, 2, 7.0), observation(2, 50, 2, 0.5), observation(6, 4, 4)):
        history.add(seen)

    series = history.series(TimeRange.MINUTES_15, NOW + timedelta(seconds=8))
    assert [15.0, 1.0] == series["rates"][Family.CAME_IN]["records"]
    assert [7.0, 0.5] == series["lag_seconds"][GROUP]
    assert [int(NOW.timestamp()), int(NOW.timestamp()) + 5] == series["times"]


def test_a_range_begins_with_the_first_sample_of_a_new_console() -> None:
    """A fifth of it is shown at least: a chart of seconds would change its scale at each look."""
    history = TimeSeries()
    history.add(observation(0))

    shown = [
        series["to"] - series["from"]
        for series in (history.series(TimeRange.MINUTES_15, NOW + timedelta(seconds=age)) for age in (10, 600, 3600))
    ]
    assert [180, 600, 180] == shown


def test_a_rate_is_exact_enough_to_be_told_a_minute() -> None:
    """One dead letter in a bucket of a minute is one a minute, and one in 24 h is not none."""
    history = TimeSeries()
    history.add(Observation(NOW, {Family.DEAD_LETTERS: 60.0}, {Family.DEAD_LETTERS: {"not_json": 1}}))
    day = {Family.DEAD_LETTERS: 86_400.0}
    history.add(Observation(NOW + timedelta(minutes=1), day, {Family.DEAD_LETTERS: {"not_json": 1}}))

    series = history.series(TimeRange.HOURS_6, NOW + timedelta(minutes=2))["rates"][Family.DEAD_LETTERS]["not_json"]
    assert [pytest.approx(1, rel=1e-3), pytest.approx(1 / 1440, rel=0.05)] == [60 * each for each in series]


def test_a_family_that_was_not_read_is_unknown_and_not_zero() -> None:
    """A code that did not occur is zero a second; without a reading of results every code is unknown."""
    history = TimeSeries()
    seconds = {Family.OUTCOMES: 5.0}
    history.add(Observation(NOW, seconds, {Family.OUTCOMES: {"charged": 20}}))
    history.add(Observation(NOW + timedelta(seconds=5), seconds, {Family.OUTCOMES: {"free": 5}}))
    history.add(observation(10))

    rates = history.series(TimeRange.MINUTES_15, NOW + timedelta(seconds=11))["rates"][Family.OUTCOMES]
    assert {"charged": [4.0, 0.0, None], "free": [0.0, 1.0, None]} == rates


def test_the_first_dead_letter_of_the_last_minutes_is_dated() -> None:
    """By its bucket; a sample that found none, and what came before, date nothing."""
    history = TimeSeries()
    for second, counts in ((0, {"not_json": 1}), (300, {"not_json": 0}), (310, {"unknown_plan": 2}), (320, {"x": 1})):
        at = NOW + timedelta(seconds=second)
        history.add(Observation(at, {Family.DEAD_LETTERS: 2.0}, {Family.DEAD_LETTERS: counts}))

    since = NOW + timedelta(seconds=60)
    assert NOW + timedelta(seconds=310) == history.first_counted(Family.DEAD_LETTERS, since)
    assert {"unknown_plan": 2, "x": 1} == {
        name: count for name, count in history.counted(Family.DEAD_LETTERS, since).items() if count
    }
    assert history.first_counted(Family.DEAD_LETTERS, NOW + timedelta(seconds=400)) is None


def test_each_range_is_bounded_however_long_the_console_runs() -> None:
    """Two days of samples leave one range's length of buckets in each range, and a pause is a gap in the times."""
    history = TimeSeries()
    for second in range(0, 172_800, 15):
        if not 100_000 <= second < 110_000:
            history.add(observation(second))

    end = NOW + timedelta(days=2)
    assert [60, 360, 256] == [len(history.buckets(each)) for each in TimeRange]
    series = {each: history.series(each, end) for each in TimeRange}
    assert all(series[each]["to"] - series[each]["times"][0] <= each.seconds for each in TimeRange)
    times = series[TimeRange.HOURS_24]["times"]
    assert 1 == sum(after - before > TimeRange.HOURS_24.bucket_seconds for before, after in pairwise(times))
    history.add(observation(5))  # the clock was set back
    assert 360 == len(history.buckets(TimeRange.HOURS_6))


def test_percentiles_of_latency_are_at_most_a_class_off() -> None:
    """Of 100 records of 1 to 100 ms the median and the 95th percentile are told within 20 %."""
    history = TimeSeries()
    history.add(Observation(NOW, latencies=Counter(latency_class(each / 1000) for each in range(1, 101))))
    history.add(Observation(NOW + timedelta(minutes=2)))

    latency = history.series(TimeRange.MINUTES_15, NOW + timedelta(minutes=3))["latency_seconds"]
    assert 0.050 <= latency["p50"][0] <= 0.060
    assert 0.095 <= latency["p95"][0] <= 0.115
    assert latency["p50"][1] is None
    assert (0, 0) == (latency_class(-3), latency_class(0.0004))


def test_a_history_is_read_again_after_a_restart(tmp_path: Path) -> None:
    """Every bucket is as it was; those that are too old by then, or of the future, are left out."""
    file = tmp_path / "state" / "history.json"
    history = TimeSeries()
    for second in range(0, 1200, 10):
        history.add(observation(second))
    history.add(Observation(NOW + timedelta(seconds=1199), latencies=Counter({3: 2})))
    assert save_series(file, {each: history.buckets(each) for each in TimeRange}) is None

    at = NOW + timedelta(seconds=1200)
    found, problem = load_series(file, at)
    assert problem is None
    assert [found.series(each, at) for each in TimeRange] == [history.series(each, at) for each in TimeRange]
    later, _ = load_series(file, NOW + timedelta(hours=5))
    assert ([], 20) == (later.buckets(TimeRange.MINUTES_15), len(later.buckets(TimeRange.HOURS_6)))
    earlier, _ = load_series(file, NOW + timedelta(seconds=100))
    assert {*range(int(NOW.timestamp()), int(NOW.timestamp()) + 101, 60)} == {
        each.start for each in earlier.buckets(TimeRange.HOURS_6)
    }
    assert [file] == list(file.parent.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 1, "ranges": {"15m": [3]}}'])
def test_a_file_that_is_no_history_is_named_and_begins_anew(tmp_path: Path, content: bytes) -> None:
    """The console starts all the same."""
    file = tmp_path / "history.json"
    file.write_bytes(content)

    found, problem = load_series(file, NOW)
    assert (f"{file} cannot be read: it is no history of a console", []) == (problem, found.buckets(TimeRange.HOURS_6))
    file.write_bytes(b'{"version": 2, "ranges": "of a later version"}')
    assert load_series(file, NOW)[1] is None
    assert load_series(tmp_path / "none.json", NOW)[1] is None


async def test_a_file_that_cannot_be_written_is_told_on_the_page(tmp_path: Path) -> None:
    """The series themselves are there."""
    (tmp_path / "file").write_text("")
    settings = load_settings(console_history_file=str(tmp_path / "file" / "history.json"))
    recorder = Recorder(QueryLimiter(settings))
    recorder.record(datetime.now(UTC), Growth(2.0, 10, None, 4), lag(10, 4), None)
    await recorder.save()

    series = recorder.series(TimeRange.MINUTES_15)
    assert ["cannot be written" in each for each in series["problems"]] == [True]
    assert ([5.0], [2.0], {}) == tuple(
        series["rates"][each].get("records", {}) for each in (Family.CAME_IN, Family.ANSWERED, Family.DECIDED)
    )


def test_new_books_are_as_fast_as_their_lanes() -> None:
    """A lane that gets its first row between two samples decided what lies after its group's offset."""
    flow = Flow()
    flow.add_sample(NOW, lag(100, 80), [])
    growth = flow.add_sample(NOW + timedelta(seconds=2), lag(300, 280), lane(290))

    assert Growth(2.0, 200, 210, 200) == growth


@pytest.fixture
async def tail(scene: Scene) -> AsyncIterator[ResultTail]:
    """A reader at the ends of the scene's result topics."""
    opened = ResultTail(scene.settings)
    assert await opened.read() is None
    yield opened
    await opened.close()


async def test_results_are_counted_by_code_reason_and_latency(scene: Scene, tail: ResultTail) -> None:
    """Each answer counts once, in the sample in which it came; a repeat has no latency."""
    again = send(scene.account, relationship="connection")
    await publish(
        scene.settings, SEND_REQUESTS, [send(scene.account, recipient_id=scene.account), again, again, (b"x", b"{}")]
    )
    total = await _collect(tail, 4)

    assert {"recipient_is_sender": 1, "free": 1, "repeat": 1} == total.outcomes
    assert {DeadLetterReason.INVALID_EVENT: 1} == total.dead_letters
    assert 2 == total.latencies.total()
    assert max(total.latencies) < latency_class(30)


@pytest.mark.parametrize("broken", ["_open", "_fetch"])
async def test_dead_letters_that_came_around_a_failed_reading_are_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Whether no client came up or a fetch had no answer in time: the next reading covers the whole time."""
    limiter = QueryLimiter(scene.settings)
    recorder = Recorder(limiter)
    assert await recorder.read_results() is None
    if broken == "_open":
        await recorder._tail.close()
    end = await ends(scene.settings, DEAD_LETTERS)
    await publish(scene.settings, SEND_REQUESTS, [(b"x", b"{}"), (b"x", b"{}")])
    await read(scene.settings, end, 2)
    with monkeypatch.context() as patched:
        patched.setattr(ResultTail, broken, _hang)
        patched.setattr(limiter, "settings", scene.settings.model_copy(update={"console_timeout_seconds": 1.0}))
        assert await recorder.read_results() is None
    found = await recorder.read_results()
    await recorder.close()

    assert found is not None
    assert {DeadLetterReason.INVALID_EVENT: 2} == found[0].dead_letters
    assert 1.0 <= found[1]  # as long as the reading that failed


async def _hang(*_: object) -> None:
    await asyncio.Event().wait()


async def test_nothing_is_measured_by_times_that_producers_made_up(scene: Scene) -> None:
    """Stories and backfills have times of any year: neither a latency nor an age is shown, and the page says why."""
    told = scene.settings.model_copy(update={"topic_record_time": RecordTime.CREATE})
    recorder = Recorder(QueryLimiter(told))
    assert await recorder.read_results() is None
    await publish(scene.settings, SEND_REQUESTS, [send(scene.account, relationship="connection")])
    found: list[Results] = []

    async def come() -> bool:
        read = await recorder.read_results()
        assert read is not None
        found.append(read[0])
        recorder.record(datetime.now(UTC), None, lag(9, 5, records=4, seconds=9e6), read)
        return bool(read[0].outcomes)

    await eventually(come, "the answer")
    series = recorder.series(TimeRange.MINUTES_15)
    await recorder.close()

    assert [0] == [each.latencies.total() for each in found if each.outcomes]
    assert ({}, {}) == (series["lag_seconds"], series["latency_seconds"])
    assert "producers' times" in series["unmeasured"]
    assert "" == Recorder(QueryLimiter(scene.settings)).series(TimeRange.MINUTES_15)["unmeasured"]


async def test_more_results_than_are_read_count_by_their_shares(scene: Scene, tail: ResultTail) -> None:
    """Of 300 answers of one account, read at most 100 at once, all are told, by code."""
    await publish(scene.settings, SEND_REQUESTS, [send(scene.account, relationship="connection") for _ in range(300)])
    total = await _collect(tail, 270)

    assert {"free"} == set(total.outcomes)
    assert 270 <= total.outcomes.total() < 330  # the offsets of transactions' markers are among them
    assert total.latencies.total() < 300


async def _collect(tail: ResultTail, least: int) -> Results:
    """Read until so many results came."""
    total = Results()

    async def come() -> bool:
        found = await tail.read()
        assert found is not None
        total.outcomes.update(found.outcomes)
        total.dead_letters.update(found.dead_letters)
        total.latencies.update(found.latencies)
        return total.outcomes.total() + total.dead_letters.total() >= least

    await eventually(come, f"{least} results")
    return total


async def test_a_console_that_starts_again_shows_what_the_one_before_saw(scene: Scene, tmp_path: Path) -> None:
    """The file is written when the console ends."""
    file = tmp_path / "history.json"

    async def read() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}

        async def sampled() -> list[int]:
            async with client.get(f"{address}/api/history?range=6h") as answer:
                found.update(await answer.json())
            return found["times"]

        async with (
            serve_test_console(scene.settings, console_history_file=str(file)) as address,
            aiohttp.ClientSession() as client,
        ):
            await eventually(sampled, "a sample")
        return found

    first = await read()
    kept = json.loads(file.read_bytes())["ranges"]["6h"]
    kept[0]["start"] -= 3600
    file.write_text(json.dumps({"version": 1, "ranges": {"6h": kept}}))

    assert [first["times"][0] - 3600] == (await read())["times"][:1]
