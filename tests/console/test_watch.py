"""What the console makes of what it sees: how much flows, and how each part is."""

import asyncio
import gc
import socket
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.kafka import admin_client, reader
from infra.settings import SettingsError, load_settings
from workers.console.flow import Flow
from workers.console.health import Part, Probe, probe_addresses, with_since, workers_of
from workers.console.letters import letter_json
from workers.console.resuming import redrive_of, reemission_of
from workers.ops.dead_letters import DeadLetter
from workers.ops.groups import Group
from workers.ops.lag import GroupLag, PartitionLag
from workers.ops.operations import Operation, RefusedError
from workers.ops.outcomes import LaneRow
from workers.ops.redrive_plan import Options

NOW = datetime(2026, 1, 31, tzinfo=UTC)
TOPIC = "inmail.send-requests"


def lag(end: int, committed: int | None, **more: Any) -> list[GroupLag]:
    """Return the lag of one partition."""
    facts = {"records": 0, "seconds": 0.0, "lost": 0, "held": 0} | more
    return [GroupLag("inmail-send", TOPIC, (PartitionLag("inmail-send", TOPIC, 0, committed, end, **facts),))]


def lane(next_offset: int) -> list[LaneRow]:
    """Return how far the books are in that partition."""
    return [LaneRow("inmail-send", TOPIC, 0, next_offset, NOW)]


def test_flow_is_growth_by_time() -> None:
    """Of what came in, what was decided and what was answered."""
    flow = Flow()
    flow.add(NOW, lag(100, 80), lane(90))
    flow.add(NOW + timedelta(seconds=2), lag(300, 100), lane(150))

    rates = flow.rates[-1]
    assert (100.0, 30.0, 10.0) == (rates.came_in, rates.decided, rates.answered)


def test_flow_is_not_made_up() -> None:
    """A rewind is no flow, nor is a partition that is new; where the books are away nothing is said of them."""
    flow = Flow()
    flow.add(NOW, lag(100, None), lane(90))
    flow.add(NOW + timedelta(seconds=1), lag(100, 100), None)
    assert (0.0, None, 0.0) == (flow.rates[-1].came_in, flow.rates[-1].decided, flow.rates[-1].answered)
    flow.add(NOW + timedelta(seconds=2), lag(100, 10), lane(20))
    assert (0.0, 0.0) == (flow.rates[-1].decided, flow.rates[-1].answered)


MEMBER = Group("Stable", ("inmail-send at here",))
READY, NOT_READY = Probe(ready=True, reasons=()), Probe(ready=False, reasons=("postgres: away",))


@pytest.mark.parametrize(
    ("groups", "group", "probe", "expected"),
    [
        (lag(9, 9), MEMBER, READY, ("ok", "works")),
        (lag(9, 9), MEMBER, None, ("ok", "works")),
        (lag(9, None), MEMBER, READY, ("failed", "never started")),
        (lag(9, 5, records=4, seconds=3.0), Group("Empty", ()), None, ("failed", "stopped")),
        (lag(9, 9), MEMBER, NOT_READY, ("failed", "not ready")),
        (lag(9, 5, records=4, seconds=3.0, held=4), MEMBER, READY, ("warning", "held back")),
        (lag(9, 5, records=4, seconds=31.0), MEMBER, READY, ("warning", "behind")),
        (lag(9, 5, records=4, seconds=29.0), MEMBER, READY, ("ok", "works")),
    ],
)
def test_a_worker_is_as_its_gravest_trouble(
    groups: list[GroupLag], group: Group, probe: Probe | None, expected: tuple[str, str]
) -> None:
    """Named by its cause."""
    (part,) = workers_of(groups, {"inmail-send": group}, {"send": probe} if probe else {})

    assert ("send worker", *expected) == (part.name, part.status, part.cause)


def test_what_has_no_group_is_told_by_its_probe() -> None:
    """Such as the ticker."""
    parts = workers_of(lag(9, 9), {"inmail-send": MEMBER}, {"send": READY, "ticker": NOT_READY})

    assert ("ticker", "failed", "postgres: away") == (parts[-1].name, parts[-1].status, parts[-1].text)


def test_since_is_kept_while_the_cause_is_the_same() -> None:
    """Though its words change."""
    later = NOW + timedelta(minutes=1)
    (first,) = with_since([Part("p", "failed", "stopped", "1 waits")], {}, NOW)
    (same,) = with_since([Part("p", "failed", "stopped", "2 wait")], {"p": first}, later)
    (other,) = with_since([Part("p", "ok", "works", "")], {"p": same}, later)

    assert (NOW, NOW, later) == (first.since, same.since, other.since)


def test_probes_are_understood_or_refused() -> None:
    """With the setting's name."""
    good = load_settings(console_workers="send=127.0.0.1:9101, ticker=[::1]:9102")
    assert {"send": "127.0.0.1:9101", "ticker": "[::1]:9102"} == probe_addresses(good)
    for wrong in ("send", "send=", "send=host", "=host:1", "send=host:port"):
        with pytest.raises(SettingsError, match="INMAIL_CONSOLE_WORKERS"):
            probe_addresses(load_settings(console_workers=wrong))


def operation(arguments: dict[str, Any], plan: dict[str, Any]) -> Operation:
    """Return an operation that was asked for so."""
    return Operation(7, "redrive", "me", "so", arguments, plan, NOW, NOW, NOW, "stopped", {})


def test_what_was_asked_for_is_read_back_from_its_record() -> None:
    """As it was; what another version wrote is refused."""
    given = {"selection": {"reason": "unknown_plan", "after": "2026-01-31T00:00:00+00:00"}}
    chosen, how = redrive_of(operation(given | {"rate": 5.0, "limit": None, "again": True, "anyway": False}, {}))
    assert ("unknown_plan", NOW) == (chosen.reason, chosen.after)
    assert Options(5.0, None, again=True) == how
    rows, to, rate = reemission_of(
        operation({"selection": {"worker": "send", "partition": 3}, "to": None}, {"rate": 9})
    )
    assert ("send", 3, None, 9.0) == (rows.worker, rows.partition, to, rate)
    for wrong in ({}, {"selection": {"colour": "red"}, "to": None}, {"selection": {"reason": "none"}}):
        for read in (redrive_of, reemission_of):
            with pytest.raises(RefusedError, match="operation 7"):
                read(operation(wrong, {"rate": 1}))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (b"plain", "plain"),
        (b"\xff\x00", "00000000  ff 00"),
        (("é" * 70_000).encode(), "é" * 65_536 + "\n… (cut here)"),
    ],
)
def test_a_message_is_text_or_a_dump_and_never_too_much(value: bytes | None, shown: str | None) -> None:
    """A cut is said, and comes between characters."""
    letter = DeadLetter(0, 0, None, "r", "e", None, None, "t", 0, 0, NOW, NOW, None, value, (), cut=False)
    found = letter_json(letter, None)["value"]

    assert found == shown if shown is None else found.startswith(shown)


@pytest.mark.parametrize("client", [reader, admin_client])
async def test_a_look_that_is_cut_short_leaves_no_client_behind(client: Any) -> None:
    """A broker that takes the connection and says nothing costs the time allowed, and no more than that."""
    with socket.create_server(("127.0.0.1", 0)) as silent, warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        settings = load_settings(kafka_bootstrap_servers=f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client(settings):
                pytest.fail("it connected to nobody")
        gc.collect()

    assert [] == [str(each.message) for each in left]
