"""What a user may do on a cluster, asked for without doing it (KIP-430).

A cluster without an authorizer says that everything may be done.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    for_code,
)
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.types import Boolean, Int16, Int32

from infra.kafka.cluster_queries import ClusterQueries, open_cluster_queries
from infra.kafka.raw_requests import BROKERS, TEXT, RawRequest, request_struct
from infra.kafka.topic_ids import describe_topics
from infra.settings import SecurityProtocol, Settings

__all__ = [
    "AUTHORIZATION_ERRORS",
    "MissingRightsError",
    "Operation",
    "Resource",
    "Right",
    "cluster_operations",
    "find_missing_rights",
    "group_operations",
    "may_describe_transactions",
    "operations_of",
    "require_rights",
    "user_of",
]

AUTHORIZATION_ERRORS = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    ClusterAuthorizationFailedError,
)

_GROUP, _TRANSACTION = 0, 1


class Operation(IntEnum):
    """What can be allowed, by Kafka's own numbers."""

    READ = 3
    WRITE = 4
    CREATE = 5
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11


class Resource(StrEnum):
    """The kinds of things that rights are given on, in words."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_IDS = "the transactional ids"  # that begin with a name
    CLUSTER = "the cluster"


class Right(NamedTuple):
    """A right on one thing: what may be done with it."""

    operation: Operation
    resource: Resource
    name: str = ""

    @property
    def place(self) -> str:
        """The thing in words."""
        stars = "*" if self.resource is Resource.TRANSACTIONAL_IDS else ""
        return f"{self.resource.value} {self.name}{stars}".strip()

    def __str__(self) -> str:
        return f"{self.operation.name} on {self.place}"


class MissingRightsError(Exception):
    """The user lacks rights on the cluster. The message names the user, each right and what it is on."""

    def __init__(self, settings: Settings, missing: Sequence[Right], purpose: str) -> None:
        """Take the settings that name the user, the missing rights, and the command that needs them."""
        super().__init__(
            f"Kafka at {settings.kafka_bootstrap_servers} does not let {user_of(settings)} do what {purpose} needs:"
            f" grant it {', '.join(map(str, missing))}"
        )
        self.missing = tuple(missing)


def user_of(settings: Settings) -> str:
    """Return in words who the brokers take this process for."""
    if settings.kafka_security_protocol.startswith("SASL"):
        return f"user {settings.kafka_sasl_username}"
    if settings.kafka_security_protocol is SecurityProtocol.SSL and settings.kafka_ssl_cert_file:
        return f"the user of the certificate {settings.kafka_ssl_cert_file}"
    return "user ANONYMOUS (no login is set)"


def operations_of(bits: int | None) -> frozenset[Operation]:
    """Return the operations that bits stand for."""
    return frozenset(each for each in Operation if bits is not None and bits & 1 << each)


class _DescribeGroupsRequest(DescribeGroupsRequest_v3):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's own reads the answer as of version 2."""

    RESPONSE_TYPE = DescribeGroupsResponse_v3


_DESCRIBE_CLUSTER: Final = request_struct(
    "DescribeCluster",
    60,
    0,
    [("include_authorized_operations", Boolean)],
    [
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", TEXT),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        ("brokers", BROKERS),
        ("authorized_operations", Int32),
    ],
)


async def group_operations(lookup: ClusterQueries, groups: Sequence[str]) -> dict[str, frozenset[Operation]]:
    """Return what the user may do with groups. A group whose coordinator is not known yet is left out.

    Raises:
        KafkaError: when a broker does not answer.

    """
    found: dict[str, frozenset[Operation]] = {}
    for group in groups:
        coordinator = await lookup.send(next(iter(lookup.brokers())), FindCoordinatorRequest(group, _GROUP))
        if for_code(coordinator.error_code) is GroupAuthorizationFailedError:
            found[group] = frozenset()
        elif not coordinator.error_code:
            request = RawRequest(_DescribeGroupsRequest, [group], True)
            found.update(_groups_in(await lookup.send(coordinator.coordinator_id, request)))
    return found


def _groups_in(answer: Any) -> Iterator[tuple[str, frozenset[Operation]]]:  # noqa: ANN401 - aiokafka's
    for error, group, *_, operations in answer.groups:
        if for_code(error) is GroupAuthorizationFailedError:
            yield group, frozenset()
        elif not error:  # another error tells of a coordinator that loads or moves, and of no right
            yield group, operations_of(operations)


async def cluster_operations(lookup: ClusterQueries) -> frozenset[Operation] | None:
    """Return what the user may do with the cluster as a whole; None where it may not ask, for want of DESCRIBE on it.

    Raises:
        KafkaError: when no broker answers.

    """
    answer = await lookup.send(next(iter(lookup.brokers())), RawRequest(_DESCRIBE_CLUSTER, True))
    if for_code(answer.error_code) is ClusterAuthorizationFailedError:
        return None
    return operations_of(answer.authorized_operations) or None


async def may_describe_transactions(lookup: ClusterQueries, transactional_id: str) -> bool:
    """Tell whether the user may describe a transactional id. Whether it may write under one only a transaction tells.

    Raises:
        KafkaError: when no broker answers.

    """
    request = FindCoordinatorRequest(transactional_id, _TRANSACTION)
    answer = await lookup.send(next(iter(lookup.brokers())), request)
    return for_code(answer.error_code) is not TransactionalIdAuthorizationFailed


async def require_rights(settings: Settings, rights: Sequence[Right], purpose: str) -> None:
    """Check that the user has rights on the cluster.

    Raises:
        MissingRightsError: naming those that it lacks.
        KafkaError: when the cluster cannot be reached.

    """
    async with open_cluster_queries(settings) as lookup:
        if missing := await find_missing_rights(lookup, rights):
            raise MissingRightsError(settings, missing, purpose)


async def find_missing_rights(lookup: ClusterQueries, rights: Sequence[Right]) -> list[Right]:
    """Return those of the rights that the user lacks, asked for without using them.

    Kafka tells of a topic only where it exists, of the cluster only whoever may describe it, and of WRITE on
    transactional ids nobody: such rights count as held until they are used.

    Raises:
        KafkaError: when a broker does not answer.

    """
    held: dict[tuple[Resource, str], frozenset[Operation]] = {}
    names = {kind: sorted({right.name for right in rights if right.resource is kind}) for kind in Resource}
    held |= await _held_on_topics(lookup.client, names[Resource.TOPIC])
    of_groups = await group_operations(lookup, names[Resource.GROUP])
    held |= {(Resource.GROUP, group): found for group, found in of_groups.items()}
    for prefix in names[Resource.TRANSACTIONAL_IDS]:
        if not await may_describe_transactions(lookup, f"{prefix}rights"):
            held[Resource.TRANSACTIONAL_IDS, prefix] = frozenset()
    if names[Resource.CLUSTER] and (of_cluster := await cluster_operations(lookup)) is not None:
        held[Resource.CLUSTER, ""] = of_cluster
    return [
        right
        for right in rights
        if (right.resource, right.name) in held and right.operation not in held[right.resource, right.name]
    ]


async def _held_on_topics(
    client: AIOKafkaClient, topics: Sequence[str]
) -> dict[tuple[Resource, str], frozenset[Operation]]:
    if not topics:
        return {}
    described = await describe_topics(client, topics)
    return {(Resource.TOPIC, topic): operations_of(found.operations) for topic, found in described.items()}
