"""What a user may do on a cluster, asked for without doing it (KIP-430).

A cluster without an authorizer says that everything may be done.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    for_code,
)
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from infra.kafka.cluster_queries import ClusterQueries

__all__ = ["Operation", "group_operations", "may_describe_cluster", "may_describe_transactions", "operations_of"]

_DESCRIBE_CLUSTER = 60
_GROUP, _TRANSACTION = 0, 1


class Operation(IntEnum):
    """What can be allowed, by Kafka's own numbers."""

    READ = 3
    WRITE = 4
    CREATE = 5
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10


def operations_of(bits: int | None) -> frozenset[Operation]:
    """Return the operations that bits stand for."""
    return frozenset(each for each in Operation if bits is not None and bits & 1 << each)


class _GroupsRequestStruct(DescribeGroupsRequest_v3):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's own reads the answer as of version 2."""

    RESPONSE_TYPE = DescribeGroupsResponse_v3


class _GroupsRequest(Request[_GroupsRequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    API_KEY = DescribeGroupsRequest_v3.API_KEY

    def __init__(self, groups: Sequence[str]) -> None:
        self._groups = list(groups)

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in the one version there is."""
        return request_struct_class(self._groups, True)


class _ClusterResponse(Response):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION = _DESCRIBE_CLUSTER, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", CompactString("utf-8")),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _ClusterRequestStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION, FLEXIBLE_VERSION = _DESCRIBE_CLUSTER, 0, True
    RESPONSE_TYPE = _ClusterResponse
    SCHEMA = Schema(("include_authorized_operations", Boolean), ("tags", TaggedFields))


class _ClusterRequest(Request[_ClusterRequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    API_KEY = _DESCRIBE_CLUSTER

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in the one version there is."""
        return request_struct_class(True, {})


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
            found.update(_groups_in(await lookup.send(coordinator.coordinator_id, _GroupsRequest([group]))))
    return found


def _groups_in(answer: Any) -> Iterator[tuple[str, frozenset[Operation]]]:  # noqa: ANN401 - aiokafka's
    for error, group, *_, operations in answer.groups:
        yield group, frozenset() if error else operations_of(operations)


async def may_describe_cluster(lookup: ClusterQueries) -> bool:
    """Tell whether the user may describe the cluster.

    Raises:
        KafkaError: when no broker answers.

    """
    answer = await lookup.send(next(iter(lookup.brokers())), _ClusterRequest())
    if for_code(answer.error_code) is ClusterAuthorizationFailedError:
        return False
    return Operation.DESCRIBE in operations_of(answer.authorized_operations)


async def may_describe_transactions(lookup: ClusterQueries, transactional_id: str) -> bool:
    """Tell whether the user may describe a transactional id. Whether it may write under one only a transaction tells.

    Raises:
        KafkaError: when no broker answers.

    """
    request = FindCoordinatorRequest(transactional_id, _TRANSACTION)
    answer = await lookup.send(next(iter(lookup.brokers())), request)
    return for_code(answer.error_code) is not TransactionalIdAuthorizationFailed
