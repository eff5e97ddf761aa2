"""Consumer groups seen from outside: their members, and setting the offsets of a group without members."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import NamedTuple, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CommitFailedError,
    CoordinatorLoadInProgressError,
    GroupCoordinatorNotAvailableError,
    NotCoordinatorForGroupError,
)

from infra.kafka.clients import reader
from infra.kafka.transactions import fence_producers
from infra.settings import Settings
from workers.ops.operations import RefusedError

__all__ = ["GroupDescription", "ask_coordinator", "describe_group", "set_offsets", "wait_until_empty"]

_Answer = TypeVar("_Answer")

_LOADING = (CoordinatorLoadInProgressError, GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError)
_POLL_SECONDS = 0.5
_LOADING_SECONDS = 0.2  # until a coordinator that loads or moves is asked again
_EMPTY_STATES = ("Empty", "Dead")  # Kafka also reports an unknown group as dead


class GroupDescription(NamedTuple):
    """A consumer group as its coordinator describes it."""

    state: str
    members: tuple[str, ...]  # each as client id and host
    protocol: str = ""  # by which its leader assigns partitions; empty while the group is not stable

    @property
    def empty(self) -> bool:
        """Whether the group has no members."""
        return self.state in _EMPTY_STATES and not self.members


async def ask_coordinator(ask: Callable[[], Awaitable[_Answer]], deadline: float) -> _Answer:
    """Return a coordinator's answer; ask again while it loads or moves, until a time of the monotonic clock.

    A new cluster has no coordinator until it is asked.

    Raises:
        KafkaError: when it does not answer, or loads still at the deadline.

    """
    while True:
        try:
            return await ask()
        except _LOADING:
            if monotonic() > deadline:
                raise
        await asyncio.sleep(_LOADING_SECONDS)


async def describe_group(admin: AIOKafkaAdminClient, group: str) -> GroupDescription:
    """Return the state and the members of a group.

    Raises:
        KafkaError: when the coordinator does not answer. A coordinator that is loading or moving may answer later.

    """
    (response,) = await admin.describe_consumer_groups([group])
    error, _, state, _, protocol, members = response.groups[0][:6]
    if error:
        raise GroupCoordinatorNotAvailableError(f"group {group} is not known yet (error {error})")
    names = tuple(f"{client} at {host.lstrip('/')}" for _, client, host, *_ in members)
    return GroupDescription(state, names, protocol)


async def wait_until_empty(
    admin: AIOKafkaAdminClient, group: str, seconds: float, stop: asyncio.Event, tell: Callable[[str], None]
) -> bool:
    """Wait until a group has no members; return False if `stop` is set before.

    The wait stops no worker: the operator has to (SIGTERM).

    Args:
        admin: an open client.
        group: the consumer group.
        seconds: the longest wait.
        stop: ends the wait.
        tell: called with a line of text whenever the number of members has changed.

    Raises:
        RefusedError: when the group still has members after `seconds`.

    """
    clock = asyncio.get_running_loop().time
    deadline, told = clock() + seconds, -1
    while not stop.is_set():
        try:
            found = await describe_group(admin, group)
        except _LOADING:
            if clock() > deadline:
                raise
        else:
            if found.empty:
                return True
            if clock() > deadline:
                raise RefusedError(
                    f"after {seconds:g} s, group {group} still has {_describe_members(found)}: stop its workers"
                )
            if len(found.members) != told:
                told = len(found.members)
                tell(f"waiting for {_describe_members(found)} to end, {deadline - clock():.0f} s left")
        await _pause(stop)
    return False


async def _pause(stop: asyncio.Event) -> None:
    await asyncio.wait([waiting := asyncio.ensure_future(stop.wait())], timeout=_POLL_SECONDS)
    waiting.cancel()


def _describe_members(group: GroupDescription) -> str:
    if not group.members:
        return f"members that are being counted out ({group.state})"
    return f"{len(group.members)} member{'s'[: len(group.members) != 1]} ({', '.join(sorted(set(group.members)))})"


async def set_offsets(
    settings: Settings, group: str, offsets: Mapping[TopicPartition, int], owners: Iterable[str]
) -> None:
    """Set the offsets of a group without members, all at once.

    A killed worker may have left an open transaction with an offset that the broker would write later, over the new
    one. So the last owners of the group's lanes are fenced first. If a member joins in between, the broker refuses all
    offsets.

    Raises:
        RefusedError: when the group has members.
        KafkaError: when the brokers cannot be reached or refuse.

    """
    await fence_producers(settings, owners)
    async with reader(settings, group) as consumer:
        consumer.assign(list(offsets))
        try:
            await consumer.commit(dict(offsets))
        except CommitFailedError as error:
            raise RefusedError(f"group {group} has members again, so its offsets stay as they were") from error
