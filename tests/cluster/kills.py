"""Killing brokers of a cluster, and its database server, under a load of sends, and how long sends paused each time."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from infra.kafka.clients import admin_client
from infra.kafka.cluster_queries import open_cluster_queries
from infra.kafka.topic_ids import describe_topics
from infra.local.stack import LocalStack
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, TOPICS
from tests.cluster.judge import POSTGRES, Kill, Result, judge
from tests.cluster.under_load import under_load
from tests.cluster.waits import all_lanes_move, until
from workers.local.processes import WorkerProcesses, member_names
from workers.local.up import prepare_stack

__all__ = ["random_servers", "run"]

_BECAME_CONTROLLER = re.compile(r"^(\S+) INFO .*Becoming the active controller at epoch (\d+)", re.MULTILINE)


async def session_seconds(settings: Settings) -> float:
    """Return after how long without a heartbeat the controller takes a broker for lost, by the broker's own setting."""
    async with admin_client(settings) as admin:
        node = str(admin._client.get_random_node())
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, node)])
        rows = answer.resources[0][4]
    return next(int(row[1]) / 1000 for row in rows if row[0] == "broker.session.timeout.ms")


def controller_of(stack: LocalStack) -> int:
    """Return the node that became the active controller last, by the brokers' logs."""
    found = [
        (int(epoch), node)
        for node in range(1, stack.brokers + 1)
        for _, epoch in _BECAME_CONTROLLER.findall(stack.broker_log(node).read_text(errors="replace"))
    ]
    return max(found)[1]


async def run(  # noqa: PLR0917 - a tool
    stack: LocalStack,
    settings: Settings,
    logs: Path,
    choose: Callable[[int], int],
    rounds: int,
    rate: float = 120.0,
    members: int = 2,
    report: Callable[[Kill], None] = lambda _: None,
) -> Result:
    """Run workers under load, kill a server in each round and start it again; return what was seen.

    Args:
        stack: of several brokers, new; of several Postgres servers, each with its own workers, the first is killed.
        settings: of the workers.
        logs: a folder for the workers' logs.
        choose: gives the node to kill in a round, or POSTGRES.
        rounds: how many.
        rate: sends a second.
        members: of each worker.
        report: is told each kill, without its pauses, which the topics tell afterwards.

    """
    await prepare_stack(settings)
    result = Result(await session_seconds(settings))
    workers = WorkerProcesses(settings, logs, member_names(members, stack.databases))
    async with under_load(settings, workers, rate, result) as published:
        for number in range(rounds):
            kill = await _round(stack, settings, choose(number))
            result.kills.append(kill)
            report(kill)
    await judge(settings, published, result)
    return result


def random_servers(seed: int, nodes: int) -> Callable[[int], int]:
    """Return a choice of a broker at random; of Postgres in each fifth round."""
    dice = Random(seed)  # noqa: S311 - a workload
    return lambda number: POSTGRES if number % 5 == 4 else dice.randint(1, nodes)


async def _round(stack: LocalStack, settings: Settings, node: int) -> Kill:
    led = await _led_by(settings, node) if node else 0
    kill = Kill(node, time.time(), led, bool(node) and node == controller_of(stack))
    if node == POSTGRES:
        await asyncio.to_thread(stack.kill_postgres)
        await asyncio.to_thread(stack.start_postgres)
    else:
        await asyncio.to_thread(stack.kill_kafka, node)
    await all_lanes_move(settings, f"after the kill of {node}")
    if node != POSTGRES:
        await asyncio.to_thread(stack.start_kafka, node)
        await until(lambda: _in_sync(settings, stack.brokers), "all replicas in sync")
    return kill


async def _led_by(settings: Settings, node: int) -> int:
    async with open_cluster_queries(settings) as queries:
        places = dict.fromkeys(queries.partitions(SEND_REQUESTS), 0)
        return len(queries.group_by_leader(places).get(node, {}))


async def _in_sync(settings: Settings, brokers: int) -> bool:
    try:
        async with open_cluster_queries(settings) as queries:
            found = await describe_topics(queries.client, TOPICS)
            return len(queries.brokers()) == brokers and not any(each.lagging for each in found.values())
    except (KafkaError, OSError):
        return False
