"""What the ledger's topics hold: partitions, offsets, sizes, rates and settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from aiokafka import TopicPartition

from infra.clock import to_milliseconds, utc_now
from infra.kafka.clients import admin_client
from infra.kafka.cluster_queries import EARLIEST, LATEST, open_cluster_queries
from infra.kafka.log_sizes import fetch_log_sizes
from infra.settings import Settings
from schemas.catalogue import INPUT_TOPICS
from workers.ops.topics.plan import describe_topic
from workers.topology import topics_of

__all__ = ["PartitionFacts", "TopicFacts", "read_inventory"]

_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
_SETTINGS: Final = (
    "retention.ms",
    "retention.bytes",
    "cleanup.policy",
    "message.timestamp.type",
    "max.message.bytes",
    "min.insync.replicas",
    "unclean.leader.election.enable",
    "segment.bytes",
    "compression.type",
)


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition. Offsets count transactions' markers too, so a result topic has fewer records than offsets."""

    partition: int
    leader: int | None  # a broker's number
    replicas: int
    in_sync: int
    oldest: int | None  # offsets; None where no broker says
    end: int | None
    bytes: int | None  # on the leader's disk; None where this user may not ask
    last_minute: int | None  # offsets that came since
    last_hour: int | None


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic with its partitions."""

    topic: str
    is_input: bool
    partitions: tuple[PartitionFacts, ...]
    config: Mapping[str, str]  # settings that hold, of those that matter here
    own: tuple[str, ...]  # names of those that were given to the topic itself


async def read_inventory(settings: Settings) -> list[TopicFacts]:
    """Return the ledger's topics that exist.

    Raises:
        KafkaError: when the cluster cannot be reached.

    """
    async with admin_client(settings) as admin, open_cluster_queries(settings) as queries:
        # Described with all others: a broker may create a topic that is described by name.
        described = {row["topic"]: row for row in await admin.describe_topics() if not row["error_code"]}
        topics = topics_of(settings)
        places = [place for topic in topics for place in queries.partitions(topic)]
        now = utc_now()
        oldest = await queries.offsets(dict.fromkeys(places, EARLIEST))
        ends = await queries.offsets(dict.fromkeys(places, LATEST))
        since = {
            span: await queries.offsets(dict.fromkeys(places, to_milliseconds(now - span))) for span in (_MINUTE, _HOUR)
        }
        sizes = await fetch_log_sizes(queries, places)

        def facts(row: Mapping[str, Any]) -> PartitionFacts:
            place = TopicPartition(row["topic"], row["partition"])
            end = ends.get(place)
            minute, hour = (_grown(since[span].get(place), end) for span in (_MINUTE, _HOUR))
            if minute is not None and hour is not None:
                hour = max(minute, hour)  # where producers' times are out of order, Kafka may find the later one only
            leader = row["leader"] if row["leader"] >= 0 else None
            replicas, in_sync = len(row["replicas"]), len(row["isr"])
            known = (oldest.get(place), end, sizes.get(place), minute, hour)
            return PartitionFacts(place.partition, leader, replicas, in_sync, *known)

        found = []
        for topic in (topic for topic in topics if topic in described):
            partitions = sorted(described[topic]["partitions"], key=lambda each: each["partition"])
            config, own = await describe_topic(admin, topic)
            found.append(
                TopicFacts(
                    topic,
                    topic in INPUT_TOPICS,
                    tuple(facts({"topic": topic, **each}) for each in partitions),
                    {name: config[name] for name in _SETTINGS if name in config},
                    tuple(sorted(own)),
                )
            )
        return found


def _grown(then: int | None, end: int | None) -> int | None:
    """Return how many offsets came since a time; -1 as its offset says that no record is of then or later."""
    if then is None or end is None:
        return None
    return 0 if then < 0 else end - then
