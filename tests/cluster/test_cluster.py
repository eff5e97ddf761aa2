"""Three brokers and two database servers, killed under load: what `make cluster` does, in short."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from infra.local.stack import LocalStack
from infra.shards import settings_of_shards
from tests.cluster.judge import POSTGRES, Kill, Result, longest_pause
from tests.cluster.kills import run
from tests.cluster.servers import Act, Disturbance, Event, ServersResult, random_events, run_servers
from tests.cluster.servers_page import render_servers
from tests.cluster.table import render
from tests.conftest import MORTAL
from tests.whole import ALL
from workers.local.up import stack_settings

# The crash matrix kills Postgres under load too.
KILLED = (2, POSTGRES) if ALL else (2,)
DATABASES = 2 if ALL else 1  # each with workers of its own, which take half a minute more


@pytest.mark.timeout(240)
async def test_each_send_is_answered_once_while_a_broker_and_postgres_are_killed(tmp_path: Path) -> None:
    """A broker that leads several partitions by `kill -9`, and Postgres without a checkpoint, each started again.

    In the whole run with both that an installation may have several of: brokers, and Postgres servers.
    """
    # Half of what a cluster has by itself: how long sends pause is what `make cluster` measures.
    hurried = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
    with LocalStack(brokers=3, databases=DATABASES, broker_settings=hurried, postgres_settings=MORTAL) as stack:
        settings = stack_settings(stack, topic_partitions=6, log_format="json")
        result = await run(stack, settings, tmp_path, KILLED.__getitem__, len(KILLED), rate=30.0, members=1)

    for kill in result.kills:
        pauses = f"{kill.pause:.1f} s (Kafka: {kill.kafka_pause:.1f} s)"
        print(f"{result.sends} sends paused by {kill.node or 'Postgres'} for {pauses}")
    assert (3, DATABASES) == (settings.topic_replication, len(settings_of_shards(settings)))
    assert result.kills[0].led >= 2
    assert (0, 0, 0, []) == (result.unanswered, result.doubled, result.unbilled, result.audit)
    assert result.answers == result.sends


def test_a_pause_is_the_longest_time_between_two_answers_around_a_kill() -> None:
    """Of any partition: what lay before the kill and what comes after the next one do not count."""
    times = {0: [1.0, 9.0, 9.5, 10.0, 14.0, 40.0], 1: [9.9, 12.0]}

    assert 4.0 == longest_pause(times, 10.5, 20.0)
    assert 4.0 == longest_pause(times, 9.9, 20.0)
    assert 26.0 == longest_pause(times, 15.0, 50.0)


def test_a_kill_that_lets_sends_pause_for_too_long_fails_the_run_and_is_on_the_page() -> None:
    """Beyond the brokers' session timeout and 2 s; how long sends wait for Postgres is not Kafka's matter."""
    kills = [Kill(2, 1.0, 4, was_controller=True, pause=4.9, kafka_pause=3.0), Kill(POSTGRES, 2.0, pause=9.0)]
    result = Result(3.0, kills, sends=10, answers=10)
    options = {"rate": 1.0, "partitions": 12, "members": 2, "seed": 1, "day": "2026-11-30", "commit": "5e7f2367"}
    row = "| 1 | broker 2, the controller | 4 | 4.9 s | 3.0 s | 1.9 s | ▓▓▓▓▓▓░░░░ |"

    assert result.passed
    assert row in render(result.summary() | options)
    kills += [Kill(3, 3.0, pause=5.1, kafka_pause=4.0), Kill(1, 4.0, pause=5.3, kafka_pause=5.2)]
    assert not result.passed
    assert "| 2 of 3 kills; 1 of them Kafka's own: it alone took longer |" in render(result.summary() | options)


@pytest.mark.whole
@pytest.mark.timeout(240)
async def test_each_send_is_answered_once_while_one_of_two_postgres_servers_is_killed_and_a_number_moves(
    tmp_path: Path,
) -> None:
    """The books of both servers are sound, and add up; the numbers of the server that stays do not wait."""
    events = [Event(Act.KILL_SERVER, server=2), Event(Act.MOVE, number=0, back=False)]
    with LocalStack(databases=2, postgres_settings=MORTAL) as stack:
        settings = stack_settings(stack, topic_partitions=3, log_format="json")
        result = await run_servers(stack, settings, tmp_path, events, rate=30.0, down_seconds=1.0)

    killed, moved = result.disturbances
    for each in result.disturbances:
        print(f"{each.what}: its numbers paused for {each.pause:.1f} s, the others for {each.others:.1f} s")
    assert (0, 0, 0, []) == (result.unanswered, result.doubled, result.unbilled, result.audit)
    assert result.answers == result.sends
    assert killed.pause > 1.0
    assert killed.others < killed.pause
    assert moved.stood is not None


def test_other_numbers_that_pause_for_long_fail_the_run_and_are_on_the_page() -> None:
    """Where a server was killed; members of a group wait for each other where a number moves or a worker is killed."""
    seen = [
        Disturbance(Act.KILL_SERVER, "Postgres 2 was killed", (2, 3), 1.0, pause=6.0, others=0.4),
        Disturbance(Act.MOVE, "number 1 moved to Postgres 2", (1,), 2.0, pause=1.5, others=2.8, stood=0.5),
        Disturbance(Act.KILL_WORKER, "`send-pg1` was killed", (0, 1), 3.0, pause=20.0, others=20.0),
    ]
    result = ServersResult(20.0, seen, sends=10, answers=10)
    options = {"rate": 60.0, "partitions": 4, "members": 1, "seed": 1, "down_seconds": 3.0, "day": "", "commit": ""}

    assert result.passed
    page = render_servers(asdict(result) | options)
    assert "| 2 | number 1 moved to Postgres 2 | 1.5 s | 2.8 s | its lanes stood for 0.50 s |" in page
    assert "| a server was killed | 1 | 6.0 s | 6.0 s | 0.4 s | 0.4 s |" in page
    result.disturbances.append(replace(seen[0], others=2.1))
    assert not result.passed
    assert "| 1 of 2 |" in render_servers(asdict(result) | options)


def test_acts_of_each_kind_come_equally_often() -> None:
    """In a random order, that the seed decides."""
    events = list(random_events(7, 8, databases=2, partitions=4))

    assert dict.fromkeys(Act, 2) == Counter(event.act for event in events)
    assert events == list(random_events(7, 8, databases=2, partitions=4))
    assert events != list(random_events(8, 8, databases=2, partitions=4))
