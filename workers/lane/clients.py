"""The clients, the limits and the reports that the lanes of one worker share."""

from typing import NamedTuple
from uuid import UUID

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from infra.kafka.end_offsets import EndOffsets
from infra.kafka.shard_assignor import ShardAssignor
from infra.postgres import Pool
from workers.lane.circuit_breaker import CircuitBreaker
from workers.telemetry.health import Health
from workers.telemetry.tracing import Traces

__all__ = ["Clients"]


class Clients(NamedTuple):
    """What the lanes of a worker share."""

    consumer: AIOKafkaConsumer
    admin: AIOKafkaAdminClient
    pool: Pool
    breaker: CircuitBreaker
    health: Health
    ends: EndOffsets
    traces: Traces
    assignor: ShardAssignor  # the consumer's; its `shard` is what the worker knows of its server
    topic_ids: dict[str, UUID]  # that the input topics were last seen to have
