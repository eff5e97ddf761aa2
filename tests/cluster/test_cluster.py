"""A cluster of three brokers and its database server, killed under load: what `make cluster` does, in short."""

from pathlib import Path

import pytest

from infra.local.stack import LocalStack
from tests.cluster.judge import POSTGRES, longest_pause
from tests.cluster.kills import run
from workers.local.up import stack_settings


@pytest.mark.timeout(180)
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
