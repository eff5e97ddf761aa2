"""A cluster of three brokers and its database server, killed under load: what `make cluster` does, in short."""

from pathlib import Path

import pytest

from infra.local.stack import LocalStack
from tests.cluster.judge import POSTGRES, Kill, Result, longest_pause
from tests.cluster.kills import run
from tests.cluster.table import render
from workers.local.up import stack_settings


@pytest.mark.timeout(240)
async def test_each_send_is_answered_once_while_a_broker_and_postgres_are_killed(tmp_path: Path) -> None:
    """A broker that leads several partitions by `kill -9`, and Postgres without a checkpoint, each started again."""
    with LocalStack(brokers=3, postgres_settings={"fsync": "off"}) as stack:
        settings = stack_settings(stack, topic_partitions=6, log_format="json")
        servers = (2, POSTGRES)
        result = await run(stack, settings, tmp_path, servers.__getitem__, len(servers), rate=30.0, members=1)

    pauses = [f"{kill.pause:.1f} s (Kafka: {kill.kafka_pause:.1f} s)" for kill in result.kills]
    print(f"{result.sends} sends paused by broker 2 for {pauses[0]}, by Postgres for {pauses[1]}")
    assert 3 == settings.topic_replication
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
    options = {"rate": 1.0, "partitions": 12, "members": 2, "seed": 1}

    assert result.passed
    assert "| 1 | broker 2, the controller | 4 | 4.9 s | 3.0 s | ▓▓▓▓▓▓░░░░ |" in render(result.summary() | options)
    kills.append(Kill(3, 3.0, pause=5.1))
    assert not result.passed
    assert "| 1 of 2 kills |" in render(result.summary() | options)
