"""Assigns each partition only to members of a group whose Postgres server holds the partition's number.

A member says in its JoinGroup which server it works with, what that server holds, and which partitions it has had. The
group's leader gives a partition to nobody where no member's server holds its number, or where two servers claim it.
What is assigned wrongly all the same, by a member that knows of a change a moment later, is refused in Postgres
(`workers/lane/lane_rows.py`).

A rolling change: workers of the version before offer aiokafka's default protocol, `roundrobin`, and know of one server
that holds all. A group takes a protocol that all of its members offer, the one that they like best. So a member whose
server is alone offers `roundrobin` too, and as long as a worker of the version before is in the group, that is what the
group uses: with one server any member may have any partition. Once a server is not alone, its workers offer only this
protocol: Kafka refuses them in a group that has a worker of the version before (the process ends and says so), and
refuses such a worker in theirs. So replace all workers before a second server is added.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import structlog
from aiokafka import TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from infra.shards import Shard

__all__ = ["PROTOCOL", "PROTOCOL_BEFORE", "Assigned", "Claim", "ShardAssignor", "assign_partitions"]

PROTOCOL = "inmail-shards"
PROTOCOL_BEFORE = RoundRobinPartitionAssignor.name

_VERSION = 0  # of Kafka's own format of metadata, not of what this module puts into it


class Claim(NamedTuple):
    """What one member says of itself."""

    shard_id: UUID | None = None  # None: it says nothing, and stands for whatever server there is
    holds_all: bool = True  # whether its server holds the numbers that are not in `others`
    others: frozenset[int] = frozenset()  # numbers of which it holds something else than `holds_all` says
    owned: frozenset[TopicPartition] = frozenset()  # what it was assigned last

    def holds(self, number: int) -> bool:
        """Tell whether the member's server holds a number."""
        return self.holds_all is not (number in self.others)

    @property
    def is_of_one_alone(self) -> bool:
        """Whether its server holds every number."""
        return self.holds_all and not self.others

    def encode(self) -> bytes:
        """Return the claim as a member's user data."""
        owned: dict[str, list[int]] = defaultdict(list)
        for place in sorted(self.owned):
            owned[place.topic].append(place.partition)
        shard_id = None if self.shard_id is None else str(self.shard_id)  # asyncpg's own kind of UUID
        return orjson.dumps(
            {"shard": shard_id, "holds_all": self.holds_all, "others": sorted(self.others), "owned": owned}
        )

    @classmethod
    def decode(cls, user_data: bytes | None) -> "Claim":
        """Return a member's claim; that of one that says nothing, where the user data is of another kind."""
        try:
            found: dict[str, Any] = orjson.loads(user_data or b"")
            return cls(
                UUID(found["shard"]),
                bool(found["holds_all"]),
                frozenset(map(int, found["others"])),
                frozenset(TopicPartition(topic, each) for topic, numbers in found["owned"].items() for each in numbers),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()


class Assigned(NamedTuple):
    """Who works which partitions, and which ones nobody works."""

    members: dict[str, list[TopicPartition]]
    unheld: list[TopicPartition]  # no member's server holds their number
    disputed: list[TopicPartition]  # two servers claim their number


def assign_partitions(partitions: Iterable[TopicPartition], claims: Mapping[str, Claim]) -> Assigned:
    """Share partitions out among the members whose server holds them, as evenly as can be.

    A member keeps what it had, as far as that leaves the others their share. One that says nothing of itself is taken
    as holding everything, unless another one does not: then it gets nothing.
    """
    if not all(claim.is_of_one_alone for claim in claims.values()):
        claims = {member: claim for member, claim in claims.items() if claim.shard_id is not None}
    able: dict[TopicPartition, tuple[str, ...]] = {}
    unheld, disputed = [], []
    for place in sorted(partitions):
        members = tuple(sorted(member for member, claim in claims.items() if claim.holds(place.partition)))
        if not members:
            unheld.append(place)
        elif len({claims[member].shard_id for member in members} - {None}) > 1:
            disputed.append(place)
        else:
            able[place] = members
    alike: dict[tuple[str, ...], list[TopicPartition]] = defaultdict(list)  # mostly one for each server
    for place, members in able.items():
        alike[members].append(place)
    kept = {place: member for members, places in alike.items() for place, member in _keep(places, members, claims)}
    loads = Counter(kept.values())
    for place in sorted(able.keys() - kept.keys()):
        kept[place] = min(able[place], key=lambda member: (loads[member], member))
        loads[kept[place]] += 1
    given: dict[str, list[TopicPartition]] = defaultdict(list)
    for place, member in sorted(kept.items()):
        given[member].append(place)
    return Assigned(given, unheld, disputed)


def _keep(
    places: Sequence[TopicPartition], members: Sequence[str], claims: Mapping[str, Claim]
) -> Iterable[tuple[TopicPartition, str]]:
    """Return which partitions stay with the one member that had them, as far as all members get equal shares."""
    share, larger = divmod(len(places), len(members))  # so many members have one more than the others
    had: dict[str, list[TopicPartition]] = defaultdict(list)
    for place in places:
        owners = [member for member in members if place in claims[member].owned]
        if len(owners) == 1:
            had[owners[0]].append(place)
    for member in members:
        count = share
        if larger and len(had[member]) > share:
            count, larger = share + 1, larger - 1
        yield from ((place, member) for place in had[member][:count])


class ShardAssignor(AbstractPartitionAssignor):  # type: ignore[misc] # aiokafka is untyped
    """One consumer's assignor: aiokafka asks it for the member's metadata, and for the assignment where it leads."""

    name = PROTOCOL

    def __init__(self, shard: Shard) -> None:
        """Take what the member's server holds. Whoever learns of a change sets `shard`."""
        self.shard = shard
        self._told: Claim | None = None  # as the member joined last, without what it owned
        self._owned: frozenset[TopicPartition] = frozenset()
        self._log = structlog.get_logger("inmail.worker")

    @property
    def offered(self) -> Collection[str]:
        """The protocols that the member offers, the better one first."""
        return (PROTOCOL, PROTOCOL_BEFORE) if self.shard.is_alone else (PROTOCOL,)

    @property
    def has_news(self) -> bool:
        """Whether the group does not know yet what the server holds by now.

        Asking to join again once is not enough: aiokafka forgets what it was asked for between its JoinGroup, which has
        what the server held then, and its SyncGroup.
        """
        return self._told is not None and self._told != self._claim()

    def _claim(self) -> Claim:
        shard = self.shard
        others = frozenset(number for number in shard.numbers if shard.holds(number) is not shard.holds_all)
        return Claim(shard.shard_id, shard.holds_all, others)

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what the member says of itself as it joins."""
        self._told = self._claim()
        user_data = self._told._replace(owned=self._owned).encode()
        return ConsumerProtocolMemberMetadata(_VERSION, list(topics), user_data)

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Return what each member gets, as the group's leader; log what nobody gets."""
        topics = {topic for member in members.values() for topic in member.subscription}
        places = [TopicPartition(topic, each) for topic in topics for each in cluster.partitions_for_topic(topic) or ()]
        assigned = assign_partitions(
            places, {member: Claim.decode(metadata.user_data) for member, metadata in members.items()}
        )
        self._report("numbers_held_by_no_server", assigned.unheld, "no worker's server holds them: is a move under way,"
                     " or are the workers of a server down? Run `inmail shards`")  # fmt: skip
        self._report("numbers_claimed_by_two_servers", assigned.disputed, "two servers say that they hold them: is an"
                     " INMAIL_DATABASE_URL wrong, or is it a copy of these books? Run `inmail shards`")  # fmt: skip
        return {member: _assignment(assigned.members.get(member, ())) for member in members}

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Note what the member was assigned, to have it again the next time."""
        self._owned = frozenset(assignment.partitions())

    def _report(self, event: str, places: Sequence[TopicPartition], hint: str) -> None:
        if places:
            numbers = sorted({place.partition for place in places})
            self._log.error(event, topics=sorted({place.topic for place in places}), numbers=numbers, hint=hint)


def _assignment(places: Sequence[TopicPartition]) -> ConsumerProtocolMemberAssignment:
    by_topic: dict[str, list[int]] = defaultdict(list)
    for place in places:
        by_topic[place.topic].append(place.partition)
    return ConsumerProtocolMemberAssignment(_VERSION, sorted(by_topic.items()), b"")
