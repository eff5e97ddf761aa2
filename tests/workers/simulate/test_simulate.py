"""A simulated history is valid, reproducible, ordered, complete, true to its rates, and generated lazily."""

import asyncio
import json
import subprocess
import sys
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.clock import from_milliseconds, to_milliseconds
from infra.settings import Settings
from schemas.catalogue import CATALOGUE, INPUT_TOPICS, SEND_REQUESTS, decode, fingerprint
from schemas.envelope import Event, encode
from tests.workers.wire import ends, prepare
from workers.cli import app
from workers.commands.running import Exit
from workers.ledger.plans import load_catalogue
from workers.ops.topics.record_lines import parse_line
from workers.simulate.history import history_bounds, simulate, simulate_records
from workers.simulate.history_file import HistoryFile
from workers.simulate.population import PLANS, PlanShare, Population, PopulationError
from workers.simulate.records import DAY, Record

EVERYTHING = Population(
    accounts=400, days=150, turbulence=6, duplicates=0.02, conflicts=0.01, out_of_order=0.02, erasures_yearly=0.05
)
STEADY = Population(accounts=200, days=28, sends_per_day=10, duplicates=0, conflicts=0, out_of_order=0)
SEND, ACTIVATED, RENEWED, CHANGED, CANCELLED, TAKEN_BACK, TICK = (
    f"inmail.{name}.v1"
    for name in (
        "send.requested",
        "subscription.activated",
        "subscription.renewed",
        "subscription.plan-changed",
        "subscription.cancelled",
        "subscription.cancellation-taken-back",
        "expiry.tick",
    )
)
UNDELIVERABLE, RESPONDED = "inmail.send.undeliverable.v1", "inmail.recipient.responded.v1"

Document = dict[str, Any]


@pytest.fixture(scope="module")
def everything() -> list[Record]:
    """Return a history with events of every kind."""
    return list(simulate_records(EVERYTHING))


@pytest.fixture(scope="module")
def decoded(everything: list[Record]) -> list[Event]:
    """Return the events of that history, one for each record."""
    return [decode(*record[:3]) for record in everything]


@pytest.fixture(scope="module")
def documents(everything: list[Record]) -> list[Document]:
    """Return the JSON of that history, one for each record."""
    return [json.loads(record.value) for record in everything]


@pytest.fixture(scope="module")
def by_type(documents: list[Document]) -> dict[str, list[Document]]:
    """Return the same by type."""
    return dict(_grouped(documents))


@pytest.fixture(scope="module")
def steady() -> dict[str, list[Document]]:
    """Return four weeks without copies, by type."""
    return _by_type(simulate_records(STEADY))


def _by_type(records: Iterable[Record]) -> dict[str, list[Document]]:
    return _grouped(json.loads(record.value) for record in records)


def _grouped(documents: Iterable[Document]) -> dict[str, list[Document]]:
    found: defaultdict[str, list[Document]] = defaultdict(list)
    for document in documents:
        found[document["type"]].append(document)
    return found


def _share(documents: Iterable[Document], **data: object) -> float:
    counts = Counter(data.items() <= document["data"].items() for document in documents)
    return counts[True] / counts.total()


# -- what comes out -----------------------------------------------------------------------------------------------


def test_every_event_equals_the_encoding_of_its_model(everything: list[Record], decoded: list[Event]) -> None:
    """The fast encoder writes the bytes of `encode`, under the key that `decode` requires."""
    both = zip(everything, decoded, strict=True)

    assert [] == [record for record, event in both if record.value != encode(event)]


def test_every_kind_of_input_occurs(by_type: dict[str, list[Document]]) -> None:
    """The history covers every input event of the catalogue."""
    expected = {row.name for row in CATALOGUE if row.direction == "in"}

    assert expected == set(by_type)


def test_events_are_ordered_by_time(everything: list[Record], decoded: list[Event]) -> None:
    """Events arrive in time order within the history's bounds, and a record's time is the event's time."""
    start, end = history_bounds(EVERYTHING)
    times = [record.time for record in everything]

    assert times == sorted(times)
    assert start <= times[0] <= times[-1] < end
    assert times == [to_milliseconds(event.time) for event in decoded]


def test_a_published_line_has_the_topic_and_key_of_the_history(everything: list[Record]) -> None:
    """Each line of the file gives one record with the same topic and key."""
    lines = [parse_line(record.value) for record in everything[:5_000]]

    assert [(r.topic, r.key, r.key is None) for r in everything[:5_000]] == [
        (line.topic, line.key, line.to_every_partition) for line in lines
    ]


def test_models_are_yielded_as_well_as_bytes() -> None:
    """`simulate` and `simulate_records` yield the same history."""
    population = Population(accounts=20, days=10)

    assert [decode(*record[:3]) for record in simulate_records(population)] == list(simulate(population))


def test_new_ids_grow_with_time(everything: list[Record], documents: list[Document]) -> None:
    """Ids are UUIDv7 of the event's time, so that an index on ids grows at its end."""
    first: dict[str, Document] = {}
    for record, document in zip(everything, documents, strict=True):
        if record.topic != SEND_REQUESTS:
            first.setdefault(document["id"], document)
    ids = list(first)

    assert {"7"} == {id_[14] for id_ in ids}
    assert {"8", "9", "a", "b"} == {id_[19] for id_ in ids}
    assert [to_milliseconds(datetime.fromisoformat(first[id_]["time"])) for id_ in ids] == [
        int(id_.replace("-", "")[:12], 16) for id_ in ids
    ]


# -- the same again -----------------------------------------------------------------------------------------------


def test_the_same_population_gives_the_same_bytes(everything: list[Record]) -> None:
    """A history is reproducible from its parameters."""
    assert everything == list(simulate_records(EVERYTHING))


def test_another_seed_gives_other_bytes() -> None:
    """The first event already differs."""
    one, other = (list(simulate_records(Population(seed=seed, accounts=20, days=5))) for seed in (1, 2))

    assert set() == {record.value for record in one} & {record.value for record in other}


def test_a_longer_history_begins_with_the_shorter_one() -> None:
    """A history can be extended without changing its beginning."""
    shorter, longer = (list(simulate_records(Population(accounts=50, days=days))) for days in (10, 40))

    assert shorter == longer[: len(shorter)]


# -- rates --------------------------------------------------------------------------------------------------------


def test_accounts_send_at_the_given_rate(steady: dict[str, list[Document]]) -> None:
    """The rate holds on average over accounts and a week."""
    expected = STEADY.accounts * STEADY.days * STEADY.sends_per_day

    assert pytest.approx(expected, rel=0.02) == len(steady[SEND])


def test_sends_and_their_reports_have_the_given_shares(steady: dict[str, list[Document]]) -> None:
    """Shares of free sends, undeliverable sends and responses hold; some reports are still due at the end."""
    sends = steady[SEND]

    assert pytest.approx(STEADY.connections, rel=0.05) == _share(sends, relationship="connection")
    assert pytest.approx(STEADY.open_profiles, rel=0.1) == _share(sends, relationship="open_profile")
    assert pytest.approx(STEADY.undeliverable, rel=0.1) == len(steady[UNDELIVERABLE]) / len(sends)
    assert pytest.approx(STEADY.responses, rel=0.1) == len(steady[RESPONDED]) / len(sends)


def test_some_accounts_send_to_themselves() -> None:
    """Members send to their own account, seats of a contract to their own name."""
    sends = _by_type(simulate_records(Population(accounts=100, days=10, sends_per_day=20, self_sends=0.05)))[SEND]
    to_self = [s for s in sends if s["data"]["recipient_id"] == s["data"].get("sender_id", s["subject"])]

    assert pytest.approx(0.05, rel=0.15) == len(to_self) / len(sends)
    assert {True, False} == {"sender_id" in send["data"] for send in to_self}


@pytest.mark.parametrize(("hot", "hottest"), [(0.0, 1 / 200), (0.7, 0.084), (1.0, 0.13), (1.5, 0.45)])
def test_hot_accounts_send_more(hot: float, hottest: float) -> None:
    """Senders follow Zipf's law; with exponent 0 all accounts send alike."""
    population = Population(accounts=200, days=14, sends_per_day=10, hot=hot)
    counts = Counter(send["subject"] for send in _by_type(simulate_records(population))[SEND])
    ((_, most),) = counts.most_common(1)

    assert pytest.approx(hottest, rel=0.4) == most / counts.total()


def test_plans_have_their_shares() -> None:
    """Each account's first plan is a shipped plan; a pooled account has a subscription for each seat."""
    population = Population(accounts=3_000, days=0.01, established=1, annual=0.4, sends_per_day=0, out_of_order=0)
    activations = _by_type(simulate_records(population))[ACTIVATED]
    first = {event["subject"]: event for event in activations}
    plans = Counter(event["data"]["plan"] for event in first.values())
    total = sum(share.weight for share in PLANS)

    assert set(load_catalogue().plans) == {share.plan for share in PLANS} == set(plans)
    assert population.accounts == len(first)
    assert pytest.approx(0.4, rel=0.1) == _share(first.values(), term="annual")
    for share in PLANS:
        assert pytest.approx(share.weight / total, rel=0.25, abs=0.005) == plans[share.plan] / len(first)


def test_seats_of_a_contract_have_subscriptions_and_names() -> None:
    """A contract's sends name a seat with a subscription; a member's sends name no seat."""
    population = Population(accounts=100, days=20, sends_per_day=10, established=1, late=0, early=0, out_of_order=0)
    events = _by_type(simulate_records(population))
    seats = Counter(e["subject"] for e in events[ACTIVATED] if e["subject"].startswith("contract-"))
    names = defaultdict(set)
    for send in events[SEND]:
        names[send["subject"]].add(send["data"].get("sender_id"))

    assert seats
    for account, found in names.items():
        number = seats[account]
        assert found <= ({f"{account}-seat-{seat}" for seat in range(1, number + 1)} if number else {None})


def test_anchors_fall_on_every_day_of_the_month(by_type: dict[str, list[Document]]) -> None:
    """Anchor days include 29 to 31, for which a short month uses its last day."""
    periods = [event["data"] for event in by_type[ACTIVATED] + by_type[RENEWED]]
    short = [p for p in periods if p.get("anchor_day", 0) > datetime.fromisoformat(p["period_start"]).day]

    assert set(range(1, 32)) == {period["anchor_day"] for period in periods if "anchor_day" in period}
    assert set(range(1, 32)) == {datetime.fromisoformat(period["period_start"]).day for period in periods}
    assert short


def test_periods_are_contiguous() -> None:
    """Each renewal starts at the end of the previous period, unless the plan changed, even if an event is late."""
    population = Population(accounts=200, days=200, sends_per_day=0, duplicates=0, conflicts=0, plan_changes_yearly=0)
    periods = defaultdict(set)
    events = _by_type(simulate_records(population))
    for event in events[ACTIVATED] + events[RENEWED]:
        data = event["data"]
        periods[event["subject"], data["subscription_id"]].add((data["period_start"], data["period_end"]))

    whole = [sorted(found) for found in periods.values()]
    assert max(map(len, whole)) >= 6
    gaps = [found for found in whole if any(one[1] != other[0] for one, other in pairwise(found))]
    assert len(gaps) < 0.05 * len(whole)  # what is held back beyond the end


def test_some_periods_are_late_and_some_early() -> None:
    """Events are up to a day late or up to an hour early; the others arrive within minutes."""
    population = Population(
        accounts=1_000, days=90, sends_per_day=0, duplicates=0, conflicts=0, out_of_order=0, late=0.2, early=0.1
    )
    delays = [
        datetime.fromisoformat(event["time"]) - datetime.fromisoformat(event["data"]["period_start"])
        for event in _by_type(simulate_records(population))[RENEWED]
    ]

    late = [delay for delay in delays if delay > timedelta(minutes=10)]
    early = [delay for delay in delays if delay < timedelta()]
    assert pytest.approx(0.2, rel=0.15) == len(late) / len(delays)
    assert pytest.approx(0.1, rel=0.2) == len(early) / len(delays)
    assert timedelta(days=1) >= max(delays)
    assert timedelta(hours=-1) <= min(delays)


def test_some_events_are_out_of_order(documents: list[Document]) -> None:
    """Some periods arrive after their successor, and some reports before their send."""
    newest: dict[tuple[str, str], str] = {}
    periods = reports = 0
    seen = set()
    for document in documents:
        if document["type"] in {ACTIVATED, RENEWED}:
            subscription = (document["subject"], document["data"]["subscription_id"])
            periods += document["data"]["period_start"] < newest.get(subscription, "")
            newest[subscription] = max(newest.get(subscription, ""), document["data"]["period_start"])
        elif document["type"] == SEND:
            seen.add(document["id"])
        elif document["type"] in {UNDELIVERABLE, RESPONDED}:
            reports += document["data"]["send_id"] not in seen

    assert periods > 10
    assert reports > 10


def test_cancels_are_immediate_or_at_period_end_and_some_are_taken_back(by_type: dict[str, list[Document]]) -> None:
    """Some cancels are taken back in time, some too late, and some accounts subscribe again."""
    at_once = Counter(event["data"]["effective_at"] <= event["time"] for event in by_type[CANCELLED])
    ended = {event["data"]["subscription_id"]: event["data"]["effective_at"] for event in by_type[CANCELLED]}
    in_time = Counter(event["time"] < ended[event["data"]["subscription_id"]] for event in by_type[TAKEN_BACK])
    later = [event for event in by_type[ACTIVATED] if "-sub-1" not in event["data"]["subscription_id"]]

    assert pytest.approx(EVERYTHING.cancels_at_once, rel=0.3) == at_once[True] / at_once.total()
    assert min(in_time[True], in_time[False]) > 10
    assert len(later) > 10


def test_plan_changes_apply_now_later_or_to_a_paid_period(by_type: dict[str, list[Document]]) -> None:
    """The history contains plan changes that are granted, granted ahead, and refused."""
    kinds: Counter[str] = Counter()
    for event in by_type[CHANGED]:
        ahead = datetime.fromisoformat(event["data"]["period_start"]) - datetime.fromisoformat(event["time"])
        kinds["later" if ahead > timedelta() else "now" if ahead > timedelta(seconds=-1) else "paid"] += 1

    assert min(kinds["now"], kinds["later"], kinds["paid"]) > 10


def test_voids_name_an_existing_grant(by_type: dict[str, list[Document]]) -> None:
    """Most voids name an existing grant; some name an unknown grant."""
    given = {(event.get("subject"), event["id"]) for found in by_type.values() for event in found}
    known = Counter((e["subject"], e["data"]["grant_id"]) in given for e in by_type["inmail.grant.voided.v1"])

    assert known[True] > known[False] > 0


def test_yearly_rates_hold() -> None:
    """Events per account and year match the rates, multiplied by turbulence."""
    population = Population(
        accounts=2_000, days=73, sends_per_day=0, duplicates=0, conflicts=0, erasures_yearly=0, turbulence=2
    )
    events = _by_type(simulate_records(population))
    years = population.accounts * population.days / 365 * population.turbulence

    assert pytest.approx(population.promotions_yearly * years, rel=0.15) == len(events["inmail.promotion.granted.v1"])
    assert pytest.approx(population.surveys_yearly * years, rel=0.2) == len(events["inmail.survey.granted.v1"])
    ups = Counter(event["data"]["credits"] > 0 for event in events["inmail.credits.adjusted.v1"])
    assert pytest.approx(population.adjustments_yearly * years, rel=0.3) == ups.total()
    assert min(ups.values()) > 0.3 * ups.total()


def test_an_erased_account_sends_almost_nothing(documents: list[Document]) -> None:
    """Few sends follow an erasure."""
    erased, after = set(), 0
    for document in documents:
        after += document.get("subject") in erased
        if document["type"] == "inmail.account.erased.v1":
            erased.add(document["subject"])

    assert erased
    assert 0 < after < 0.01 * len(documents)


@pytest.mark.parametrize(("hours", "expected"), [(6, 39), (24, 9), (0, 0)])
def test_ticks_have_equal_intervals(hours: float, expected: int) -> None:
    """Each tick asks for expiry up to its own time."""
    population = Population(accounts=5, days=10, tick_hours=hours, duplicates=0)
    ticks = _by_type(simulate_records(population))[TICK]

    assert expected == len(ticks)
    assert [population.start + timedelta(hours=hours * (n + 1)) for n in range(expected)] == [
        datetime.fromisoformat(tick["data"]["as_of"]) for tick in ticks
    ]
    assert [tick["time"] for tick in ticks] == [tick["data"]["as_of"] for tick in ticks]


# -- copies -------------------------------------------------------------------------------------------------------


def test_duplicates_and_conflicts_occur(everything: list[Record], decoded: list[Event]) -> None:
    """The history has identical copies at once, the same event within a day, and the same id with another body."""
    first: dict[tuple[Any, ...], tuple[Record, int]] = {}
    kinds: Counter[str] = Counter()
    for record, event in zip(everything, decoded, strict=True):
        body = fingerprint(event)
        earlier, earlier_body = first.setdefault((event.subject, event.id), (record, body))
        if earlier is record:
            kinds["new"] += 1
        elif body != earlier_body:
            kinds["conflict"] += 1
        else:
            assert record.time - earlier.time < 3 * DAY
            kinds["bytes" if record.value == earlier.value else "event"] += 1

    assert pytest.approx(EVERYTHING.duplicates / 2, rel=0.2) == kinds["bytes"] / kinds["new"]
    assert pytest.approx(EVERYTHING.duplicates / 2, rel=0.2) == kinds["event"] / kinds["new"]
    assert pytest.approx(EVERYTHING.conflicts, rel=0.3) == kinds["conflict"] / kinds["new"]


# -- memory -------------------------------------------------------------------------------------------------------


def _peak(days: float) -> tuple[int, int]:
    """Return how many events a history has, and the most bytes it held."""
    tracemalloc.start()
    try:
        events = sum(1 for _ in simulate_records(Population(accounts=50, days=days, sends_per_day=20)))
        return events, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.whole
def test_memory_does_not_grow_with_events() -> None:
    """Four times the events need the same memory."""
    few, small = _peak(10)
    many, large = _peak(40)

    assert many > 3.5 * few
    assert large < 1.25 * small
    assert large < 1_000_000


def test_memory_of_an_account_is_small() -> None:
    """A million accounts fit into a laptop's memory."""
    tracemalloc.start()
    try:
        records = simulate_records(Population(accounts=5_000, days=30))
        next(islice(records, 10_000, None))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak / 5_000 < 800


def test_a_history_is_generated_lazily() -> None:
    """The first event of ten years is available at once."""
    first = next(simulate_records(Population(accounts=10, days=3_660)))

    assert from_milliseconds(first.time) < Population().start + timedelta(minutes=1)


# -- wrong populations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"accounts": 0}, "accounts: expected 1 to 10,000,000, got 0"),
        ({"days": -1}, "days: expected 0.0 to 3,660.0, got -1"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"sends_per_day": float("nan")}, "sends_per_day: expected 0.0 to 100,000.0, got nan"),
        ({"hot": 3.0}, "hot: expected 0.0 to 2.0, got 3.0"),
        ({"connections": 1.5}, "connections: expected 0.0 to 1.0, got 1.5"),
        ({"promotions_yearly": -0.1}, "promotions_yearly: expected 0.0 to 1,000.0, got -0.1"),
        ({"connections": 0.6, "open_profiles": 0.6}, r"connections \+ open_profiles: expected at most 1, got 1.2"),
        ({"undeliverable": 0.6, "responses": 0.6}, r"undeliverable \+ responses: expected at most 1, got 1.2"),
        ({"start": datetime(2030, 1, 1)}, "start: expected a time with a zone"),  # noqa: DTZ001 - what is refused
        ({"start": datetime(1999, 1, 1, tzinfo=UTC)}, "start: expected a time with a zone from 2002"),
        ({"plans": ()}, "plans: expected at least one"),
        ({"plans": (PlanShare("basic", 0),)}, "plans: expected at least one plan, each with a weight above 0"),
    ],
)
def test_an_invalid_population_is_refused(wrong: dict[str, Any], told: str) -> None:
    """The error names the field, the expected range and the value."""
    with pytest.raises(PopulationError, match=told):
        Population(**wrong)


def test_an_extreme_population_is_valid() -> None:
    """One account, no senders, or everything late: the history is still in order."""
    population = Population(
        accounts=1, days=40, sends_per_day=0, established=0, late=1, early=0, out_of_order=1, annual=0,
        plans=(PlanShare("basic", 1),), turbulence=100, duplicates=0.5, conflicts=0.5, tick_hours=1,
    )  # fmt: skip
    times = [record.time for record in simulate_records(population)]

    assert times
    assert sorted(times) == times


def test_a_start_in_another_zone_is_the_same_instant() -> None:
    """All times are written in UTC."""
    east = datetime.fromisoformat("2030-01-01T05:30:00+05:30")

    assert list(simulate_records(Population(accounts=5, days=5))) == list(
        simulate_records(Population(accounts=5, days=5, start=east))
    )


# -- the file and the command -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 1_000_000])
def test_a_history_reads_as_a_file(size: int) -> None:
    """Reads of any size return the events line by line, and the file knows how far it was read."""
    population = Population(accounts=10, days=3)
    records = list(simulate_records(population))
    file = HistoryFile(iter(records), history_bounds(population)[0])

    assert b"".join(record.value + b"\n" for record in records) == b"".join(iter(lambda: file.read(size) or b"", b""))
    assert (len(records), records[-1].time) == (file.events, file.time)


ARGUMENTS = ["simulate", "--accounts", "30", "--days", "20", "--seed", "7", "--start", "2031-03-01T00:00:00Z"]
ASKED = Population(accounts=30, days=20, seed=7, start=datetime(2031, 3, 1, tzinfo=UTC))


def test_the_command_writes_a_file(tmp_path: Path) -> None:
    """The command writes to a file or to standard output; counts and rates go to standard error."""
    expected = b"".join(record.value + b"\n" for record in simulate_records(ASKED))
    target = tmp_path / "history.ndjson"
    to_file = CliRunner().invoke(app, [*ARGUMENTS, "--output", str(target)])
    to_pipe = CliRunner().invoke(app, ARGUMENTS)

    assert (Exit.DONE, Exit.DONE) == (to_file.exit_code, to_pipe.exit_code)
    assert f"{len(expected.splitlines()):,} events in " in to_file.stderr
    assert b"" == to_file.stdout_bytes
    assert expected == to_pipe.stdout_bytes
    assert expected == target.read_bytes()


def test_the_help_describes_every_option() -> None:
    """Every option has a description."""
    done = CliRunner().invoke(app, ["simulate", "--help"], terminal_width=200)

    assert Exit.DONE == done.exit_code
    assert "--turbulence" in done.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--accounts 0", "accounts: expected 1 to 10,000,000, got 0"),
        ("--connections 2", "connections: expected 0.0 to 1.0, got 2.0"),
        ("--start 2030-01-01T00:00:00", "--start"),
        ("--start 1980-01-01T00:00:00Z", "start: expected a time with a zone from 2002"),
        ("--days soon", "--days"),
        ("--publish --output x", "either --output or --publish"),
        ("--output /no/such/folder/x", "/no/such/folder/x: No such file or directory"),
    ],
)
def test_wrong_options_end_with_2_and_say_why(arguments: str, told: str) -> None:
    """The command fails before anything is written or published."""
    done = CliRunner().invoke(app, ["simulate", *arguments.split()], env={"COLUMNS": "200"})

    assert (Exit.WRONG_USAGE, b"") == (done.exit_code, done.stdout_bytes)
    assert told in done.stderr


def test_a_closed_pipe_ends_the_command_without_error() -> None:
    """`inmail simulate | head` is no error."""
    command = f"{sys.executable} -m workers.cli simulate --accounts 2000 --days 3000 | head -n 2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)

    assert 2 == len(done.stdout.splitlines())
    assert "Traceback" not in done.stderr


async def test_the_command_publishes_to_kafka(settings: Settings) -> None:
    """Publishing uses the code of `inmail publish`: each event once, a tick to each partition."""
    await prepare(settings)
    before = {topic: sum((await ends(settings, topic)).values()) for topic in INPUT_TOPICS}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "workers.cli", *ARGUMENTS, "--publish"],
        env={"INMAIL_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    after = {topic: sum((await ends(settings, topic)).values()) for topic in INPUT_TOPICS}
    expected: Counter[str] = Counter()
    for record in simulate_records(ASKED):
        expected[record.topic] += settings.topic_partitions if record.key is None else 1

    assert Exit.DONE == done.returncode, done.stderr
    assert " events in " in done.stderr
    assert expected == Counter({topic: after[topic] - before[topic] for topic in INPUT_TOPICS})
