"""What docs/producers.md says of each client: what it does by default, and what has to be set."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

__all__ = [
    "ABORTED",
    "ALL_KEYS",
    "ALL_READ",
    "ALL_REPLICAS",
    "ASCII_KEYS",
    "CLIENTS",
    "COMMITTED",
    "MARKERS_TOO",
    "NO_SETTINGS",
    "OTHER_KEYS",
    "SDKS",
    "Client",
    "Sdk",
]

HERE = Path(__file__).parent
ASCII_KEYS = [f"account-{number}" for number in range(1000)]
OTHER_KEYS = ["Zoë", "Łukasz", "Ñandú", "заказ", "例え", "🙂", "a\u0301", "ß" * 20]
ALL_KEYS = (len(ASCII_KEYS), len(OTHER_KEYS))
ALL_REPLICAS = "all replicas"

# What a client reads of a committed transaction, two that are aborted, and a committed one, each of one record.
COMMITTED = ("first", "last")
ABORTED = ("aborted 1", "aborted 2")
ALL_READ = ("first", *ABORTED, "last")
# Beside all records also the end of each transaction, which is no record of anybody's.
MARKERS_TOO = ("first", "marker", "aborted 1", "marker", "aborted 2", "marker", "last")

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


def _pinned(path: str, pattern: str) -> str:
    """Return the version that a file of packages names."""
    found = re.search(pattern, (HERE / path).read_text())
    assert found is not None, (path, pattern)
    return found.group(1)


class Client(NamedTuple):
    """A client: how far it agrees with the ledger by default, and the settings that make it agree.

    `agreeing` has how many of `ASCII_KEYS` and of `OTHER_KEYS` get to the ledger's partition by default.
    `confirmed_by` is who has a record before the client says that it is sent. `reads` and `reads_as_set` are what it
    reads by default, and with the settings.
    """

    language: str
    name: str
    version: str
    to_send: Mapping[str, str] = NO_SETTINGS
    to_read: Mapping[str, str] = NO_SETTINGS
    agreeing: tuple[int, int] = ALL_KEYS
    confirmed_by: str = ALL_REPLICAS
    reads: Sequence[str] = ALL_READ
    reads_as_set: Sequence[str] = COMMITTED

    @property
    def package(self) -> str:
        """Its name and version, as the table has them."""
        return f"{self.name} {self.version}"


class Sdk(NamedTuple):
    """An SDK of CloudEvents, and the settings for structured mode: all of them send in binary mode by default."""

    language: str
    version: str
    structured: Mapping[str, str]
    name: str = "cloudevents"


def _of_python(name: str) -> str:
    return _pinned("python/requirements.txt", rf"(?m)^{name}==(.+)$")


def _of_go(module: str) -> str:
    return _pinned("go/go.mod", rf"{module} v(\S+)")


def _of_java(artifact: str) -> str:
    return _pinned("java/pom.xml", rf"<artifactId>{artifact}</artifactId>\s*<version>(.+?)<")


def _of_javascript(name: str) -> str:
    return _pinned("javascript/package.json", rf'"{name}": "(.+)"')


JAVA_READS = {"isolation.level": "read_committed"}
PYTHON_READS = {"isolation_level": "read_committed"}
MURMUR2 = {"partitioner": "murmur2_random"}
# librdkafka reads committed records alone by default.
CLIENTS = (
    Client("java", "kafka-clients", _of_java("kafka-clients"), to_read=JAVA_READS),
    Client(
        *("python", "aiokafka", _of_python("aiokafka")),
        to_send={"acks": "all"}, to_read=PYTHON_READS, confirmed_by="the leader",
    ),
    Client("python", "kafka-python", _of_python("kafka-python"), to_read=PYTHON_READS),
    Client(
        *("python", "confluent-kafka", _of_python("confluent-kafka")),
        to_send=MURMUR2, agreeing=(83, 1), reads=COMMITTED,
    ),
    Client("kcat", "kcat", "1.7.1", to_send=MURMUR2, agreeing=(83, 1), reads=COMMITTED),
    Client(
        *("go", "franz-go", _of_go("twmb/franz-go")),
        to_read={"kgo.FetchIsolationLevel": "kgo.ReadCommitted()"},
    ),
    Client(
        *("go", "kafka-go", _of_go("segmentio/kafka-go")),
        to_send={"Balancer": "kafka.Murmur2Balancer{}", "RequiredAcks": "kafka.RequireAll"},
        to_read={"IsolationLevel": "kafka.ReadCommitted"},
        agreeing=(83, 0), confirmed_by="nobody", reads=MARKERS_TOO, reads_as_set=MARKERS_TOO,
    ),
    Client(
        *("go", "sarama", _of_go("IBM/sarama")),
        to_send={"Producer.Partitioner": "sarama.NewMurmur2Partitioner", "Producer.RequiredAcks": "sarama.WaitForAll"},
        to_read={"Consumer.IsolationLevel": "sarama.ReadCommitted"},
        agreeing=(64, 2), confirmed_by="the leader",
    ),
    Client("javascript", "kafkajs", _of_javascript("kafkajs"), reads=COMMITTED),
    Client(
        *("javascript", "@platformatic/kafka", _of_javascript("@platformatic/kafka")),
        to_send={"partitioner": "compatibilityPartitioner", "acks": "ProduceAcks.ALL"},
        to_read={"isolationLevel": "FetchIsolationLevels.READ_COMMITTED"},
        agreeing=(514, 2), confirmed_by="the leader",
        reads=("first", "aborted 1", "last"), reads_as_set=("first", "aborted 1", "last"),
    ),
)  # fmt: skip
SDKS = (
    Sdk("python", _of_python("cloudevents"), {"mode": "structured"}),
    Sdk(
        *("java", _of_java("cloudevents-kafka")),
        {
            "cloudevents.serializer.encoding": "STRUCTURED",
            "cloudevents.serializer.event_format": "application/cloudevents+json",
        },
    ),
)
