"""What is asked of a client that sends and reads on a real broker, and what it has to do."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any
from uuid import uuid4

from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from infra.kafka.clients import admin_client, create_lane_producer, partition_of, partitions_of
from infra.kafka.records import read_records
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, decode, fingerprint
from schemas.envelope import EVENT_HEADERS
from tests.clients.building import HERE, Command
from tests.clients.client_table import (
    ABORTED,
    ALL_KEYS,
    ALL_REPLICAS,
    ASCII_KEYS,
    CLIENTS,
    COMMITTED,
    NO_SETTINGS,
    OTHER_KEYS,
    SDKS,
    Client,
    Sdk,
)

__all__ = ["check_client", "check_sdk", "prepare_topics"]

PARTITIONS = 12  # no power of two
RESULTS = "results"
# Two topics that refuse a record: a client that says it is sent has asked nobody, or the leader alone. The second has
# two replicas, of which one is on a broker that is killed.
TOO_SMALL, TOO_FEW_REPLICAS = "too-small", "too-few-replicas"
LARGE = os.urandom(1500).hex()  # however well a client compresses it
LEADER, KILLED = 1, 3
SECONDS = 60.0
CONFIRM_SECONDS = 10.0  # a client that waits for all replicas goes on trying for minutes, or for ever

_EXAMPLE = json.loads((HERE.parents[1] / "schemas" / "examples" / "inmail.send.decided.v1.json").read_text())
ANSWERS = {name: json.dumps(_EXAMPLE | {"id": f"answer-{name}"}) for name in (*COMMITTED, *ABORTED)}


def _ways(given: Mapping[str, str]) -> tuple[Mapping[str, str], ...]:
    """Return the settings of each way that a client is tried: by default, and as the tables say."""
    return (NO_SETTINGS, given) if given else (NO_SETTINGS,)


def _topic(name: str, given: Mapping[str, str]) -> str:
    return f"{name.strip('@').replace('/', '-')}-{'as-set' if given else 'by-default'}"


async def _lists_killed(settings: Settings) -> bool:
    with suppress(KafkaError):  # the broker that was killed may be asked
        async with admin_client(settings) as admin:
            return KILLED in {each["node_id"] for each in (await admin.describe_cluster())["brokers"]}
    return True


async def prepare_topics(settings: Settings, kill: Callable[[int], None]) -> None:
    """Make the topics of all clients, and publish answers in transactions, two of which are aborted.

    Args:
        settings: of a cluster of three brokers, whose first one is asked.
        kill: ends one of them.

    """
    too_few = NewTopic(TOO_FEW_REPLICAS, -1, -1, {0: [LEADER, KILLED]}, {"min.insync.replicas": "2"})
    async with admin_client(settings) as admin:
        await admin.create_topics([too_few])
    await asyncio.to_thread(kill, KILLED)
    async with asyncio.timeout(SECONDS):
        while await _lists_killed(settings):  # noqa: ASYNC110 - Kafka's
            await asyncio.sleep(0.5)
    topics = [NewTopic(_topic(each.name, given), PARTITIONS, 1) for each in CLIENTS for given in _ways(each.to_send)]
    topics += [NewTopic(_sdk_topic(sdk), PARTITIONS, 1) for sdk in SDKS]
    topics += [
        NewTopic(RESULTS, 1, 1),
        NewTopic(TOO_SMALL, 1, 1, topic_configs={"max.message.bytes": "200"}),
    ]
    async with admin_client(settings) as admin:
        await admin.create_topics(topics)
    producer = create_lane_producer(settings, f"answers-{uuid4()}")
    await producer.start()
    try:
        for name in (COMMITTED[0], *ABORTED, COMMITTED[-1]):
            await producer.begin_transaction()
            await producer.send_and_wait(RESULTS, ANSWERS[name].encode(), b"acct-42", headers=[*EVENT_HEADERS])
            await (producer.abort_transaction() if name in ABORTED else producer.commit_transaction())
    finally:
        await producer.stop()


def _ask(command: Command, name: str, seconds: float, **asked: Any) -> Any:
    """Return what a program answers.

    Raises:
        CalledProcessError: when it fails, and is so told by its client.
        TimeoutExpired: when it has not ended in time; it and what it started are ended then.

    """
    process = subprocess.Popen(
        [*command, name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        answer, errors = process.communicate(json.dumps(asked), timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, [*command, name], answer, errors)
    return json.loads(answer) if answer else None


def _agreeing(settings: Settings, topic: str) -> tuple[int, int]:
    """Return how many of either kind of keys are on the ledger's partition, once the topic has all of them."""
    found = asyncio.run(_partitions(settings, topic))
    here = {key for key, partition in found.items() if partition == partition_of(key.encode(), PARTITIONS)}
    return len(here & {*ASCII_KEYS}), len(here & {*OTHER_KEYS})


async def _partitions(settings: Settings, topic: str) -> dict[str, int]:
    found: dict[str, int] = {}
    places = partitions_of(topic, PARTITIONS)
    async with asyncio.timeout(SECONDS), aclosing(read_records(settings, places, follow=True, tells=False)) as records:
        async for record in records:
            found[record.key.decode()] = record.partition
            if len(found) == len(ASCII_KEYS + OTHER_KEYS):
                break
    return found


def _is_sent(command: Command, client: Client, **asked: Any) -> bool:
    """Return whether a client says that Kafka has a record, which Kafka refuses."""
    try:
        _ask(command, client.name, CONFIRM_SECONDS, do="send", keys=["alice"], value=LARGE, **asked)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


def _confirmed_by(command: Command, client: Client, **asked: Any) -> str:
    if _is_sent(command, client, topic=TOO_SMALL, **asked):
        return "nobody"
    return "the leader" if _is_sent(command, client, topic=TOO_FEW_REPLICAS, **asked) else ALL_REPLICAS


def _read(command: Command, client: Client, **asked: Any) -> tuple[str, ...]:
    """Return what a client reads of the answers, by name; the end of a transaction is a marker."""
    names = {value: name for name, value in ANSWERS.items()}
    values = _ask(command, client.name, SECONDS, do="read", topic=RESULTS, until=ANSWERS[COMMITTED[-1]], **asked)
    return tuple(names.get(value, "marker") for value in values)


def _said(given: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in given.items()) or "by default"


def check_client(settings: Settings, command: Command, client: Client) -> tuple[list[str], list[str]]:
    """Return what a client does, and what of it is not as the tables say."""
    servers = settings.kafka_bootstrap_servers
    lines, wrong = [], []

    def note(given: Mapping[str, str], what: str, expected: object, seen: object) -> None:
        lines.append(f"{client.package}, {_said(given)}: {what} {seen}")
        if expected != seen:
            wrong.append(f"{lines[-1]}, expected {expected}")

    for given in _ways(client.to_send):
        topic = _topic(client.name, given)
        agreeing, confirmed_by = (ALL_KEYS, ALL_REPLICAS) if given else (client.agreeing, client.confirmed_by)
        asked = {"servers": servers, "settings": dict(given)}
        _ask(command, client.name, SECONDS, do="send", topic=topic, keys=ASCII_KEYS + OTHER_KEYS, value="{}", **asked)
        note(given, "on the ledger's partition, of 1,000 and of 8:", agreeing, _agreeing(settings, topic))
        note(given, "confirmed by", confirmed_by, _confirmed_by(command, client, **asked))
    for given in _ways(client.to_read):
        seen = _read(command, client, servers=servers, settings=dict(given))
        note(given, "reads", tuple(client.reads_as_set if given else client.reads), seen)
    return lines, wrong


def _sdk_topic(sdk: Sdk) -> str:
    return f"{sdk.name}-{sdk.language}"


async def _decoded(settings: Settings, topic: str) -> list[tuple[Any, ...]]:
    async with aclosing(read_records(settings, partitions_of(topic, PARTITIONS), tells=False)) as records:
        found = [(each, decode(SEND_REQUESTS, each.key, each.value, each.headers)) async for each in records]
    return [(record.partition, event.subject, event.id, fingerprint(event)) for record, event in found]


def check_sdk(settings: Settings, command: Command, sdk: Sdk) -> tuple[list[str], list[str]]:
    """Return what an SDK does, and what is wrong: a request that it sends in both modes is one, answers are events."""
    topic, package = _sdk_topic(sdk), f"{sdk.name} {sdk.version} ({sdk.language})"
    asked = {"servers": settings.kafka_bootstrap_servers}
    for given in (NO_SETTINGS, sdk.structured):
        _ask(command, sdk.name, SECONDS, do="send", topic=topic, keys=["alice", "bob"], settings=dict(given), **asked)
    sent = asyncio.run(_decoded(settings, topic))
    wanted = {"settings": {"isolation.level": "read_committed"}, "until": f"answer-{COMMITTED[-1]}"}
    read = _ask(command, sdk.name, SECONDS, do="read", topic=RESULTS, **wanted, **asked)
    is_right = (len(sent), len(set(sent))) == (4, 2) and read == [f"answer-{name}" for name in COMMITTED]
    line = f"{package}: {len(sent)} records in binary and structured mode are {len(set(sent))} requests; reads {read}"
    return [line], [] if is_right else [f"{line}: {sent}"]
