"""Runs other people's Kafka clients against the contract for producers: `python -m tests.clients [CLIENT ...]`.

Each client is installed with the version named here, from PyPI into a temporary environment, and sends to a topic of 12
partitions: which keys get to the partition that the ledger expects (murmur2), by default and with the setting that
docs/producers.md names. The CloudEvents SDK sends a request in both of its modes, and both must decode alike.
"""

import asyncio
import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from aiokafka.admin import NewTopic

from infra.kafka.clients import admin_client, partition_of, partitions_of
from infra.kafka.records import read_records
from infra.local.stack import LocalStack
from infra.settings import Settings, load_settings
from schemas.catalogue import SEND_REQUESTS, decode, fingerprint
from tests.clients.programs import AIOKAFKA, CLOUDEVENTS, CONFLUENT_KAFKA, KAFKA_PYTHON

PARTITIONS = 12  # no power of two
ASCII_KEYS = [f"account-{number}" for number in range(50)]
OTHER_KEYS = ["Zoë", "Łukasz", "Ñandú", "заказ", "例え", "🙂", "a\u0301", "ß" * 20]
SECONDS = 300


ALL = (len(ASCII_KEYS), len(OTHER_KEYS))


class Client(NamedTuple):
    """A client as the table of docs/producers.md has it."""

    packages: Sequence[str]
    program: str
    by_default: tuple[int, int] = ALL  # how many of either kind of keys get to the ledger's partition
    settings: dict[str, Any] | None = None  # that make it agree


CLIENTS = {
    "confluent-kafka": Client(["confluent-kafka==2.16.1"], CONFLUENT_KAFKA, (4, 1), {"partitioner": "murmur2_random"}),
    "kafka-python": Client(["kafka-python==3.0.12"], KAFKA_PYTHON),
    "aiokafka": Client(["aiokafka==0.14.0"], AIOKAFKA),
}
SDK = Client(["cloudevents==2.2.0", "kafka-python==3.0.12"], CLOUDEVENTS)


def _install(folder: Path, packages: Sequence[str]) -> Path:
    """Return the Python of a new environment that has the packages."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "-q"]
    subprocess.run([*pip, *packages], check=True, timeout=SECONDS)
    return python


def _send(python: Path, program: str, asked: dict[str, Any]) -> dict[str, int]:
    """Return the partition that each key got."""
    done = subprocess.run(
        [python, "-c", program], input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


async def _make_topic(settings: Settings, name: str) -> None:
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1)])


def _agreeing(found: dict[str, int], keys: Sequence[str]) -> int:
    return sum(found[key] == partition_of(key.encode(), PARTITIONS) for key in keys)


def check_partitioner(settings: Settings, name: str, client: Client) -> list[str]:
    """Print how far a client agrees with murmur2; return what is not as the table says."""
    topic = f"keys-{name}"
    asyncio.run(_make_topic(settings, topic))
    wrong = []
    with TemporaryDirectory() as folder:
        python = _install(Path(folder), client.packages)
        asked = {"servers": settings.kafka_bootstrap_servers, "topic": topic, "keys": ASCII_KEYS + OTHER_KEYS}
        for given in ({}, client.settings):
            if given is None:
                continue
            found = _send(python, client.program, asked | {"settings": given})
            counts = _agreeing(found, ASCII_KEYS), _agreeing(found, OTHER_KEYS)
            how = ", ".join(f"{key}={value}" for key, value in given.items()) or "by default"
            print(f"{client.packages[0]}, {how}: {counts[0]} of 50 ASCII keys, {counts[1]} of 8 others")
            expected = ALL if given else client.by_default
            if counts != expected:
                wrong.append(f"{name}, {how}: {counts}, expected {expected}")
    return wrong


async def _decoded(settings: Settings, topic: str) -> list[tuple[Any, ...]]:
    async with aclosing(read_records(settings, partitions_of(topic, PARTITIONS))) as records:
        found = [(each, decode(SEND_REQUESTS, each.key, each.value, each.headers)) async for each in records]
    return [(record.partition, event.subject, event.id, fingerprint(event)) for record, event in found]


def check_sdk(settings: Settings) -> list[str]:
    """Print how the CloudEvents SDK's records are read; return what is wrong."""
    topic, keys = "events-of-the-sdk", ["alice", "bob"]
    asyncio.run(_make_topic(settings, topic))
    with TemporaryDirectory() as folder:
        python = _install(Path(folder), SDK.packages)
        _send(python, SDK.program, {"servers": settings.kafka_bootstrap_servers, "topic": topic, "keys": keys})
    found = asyncio.run(_decoded(settings, topic))
    print(f"{SDK.packages[0]}: {len(found)} records in binary and structured mode are {len(set(found))} requests")
    return [] if (len(found), len(set(found))) == (4, 2) else [f"cloudevents: {found}"]


def main() -> None:
    """Run the clients named, or all with the SDK; end with 1 if one is not as the table says."""
    names = sys.argv[1:] or [*CLIENTS, "cloudevents"]
    with LocalStack(postgres=False, report=print) as stack:
        settings = load_settings(kafka_bootstrap_servers=stack.kafka_bootstrap_servers)
        wrong = [
            each
            for name in names
            for each in (
                check_sdk(settings) if name == "cloudevents" else check_partitioner(settings, name, CLIENTS[name])
            )
        ]
    sys.exit("\n".join(["not as docs/producers.md says:", *wrong]) if wrong else 0)


if __name__ == "__main__":
    main()
