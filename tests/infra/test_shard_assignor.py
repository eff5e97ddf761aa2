"""Who of a group gets which partitions, where several Postgres servers hold the books."""

import asyncio
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import InconsistentGroupProtocolError
from hypothesis import given
from hypothesis import strategies as st

from infra.kafka.clients import admin_client, create_consumer, partitions_of
from infra.kafka.permanent_errors import operator_hint
from infra.kafka.shard_assignor import PROTOCOL, PROTOCOL_BEFORE, Claim, ShardAssignor, assign_partitions
from infra.settings import Settings
from infra.shards import NumberState, Shard, ShardNumber
from schemas.catalogue import SEND_REQUESTS
from tests.workers.wire import eventually, prepare

TOPIC = "topic"
NUMBERS = range(8)
PLACES = [TopicPartition(TOPIC, number) for number in NUMBERS]
A, B, C = (UUID(int=number + 1) for number in range(3))

_numbers = st.frozensets(st.sampled_from(NUMBERS))
_claims = st.builds(
    Claim,
    st.sampled_from([A, B, C, None]),
    st.booleans(),
    _numbers,
    st.frozensets(st.sampled_from(PLACES)),
)
_groups = st.dictionaries(st.sampled_from("abcdef"), _claims, min_size=1)


def _servers(claims: dict[str, Claim], number: int) -> set[UUID | None]:
    return {claim.shard_id for claim in claims.values() if claim.shard_id and claim.holds(number)}


def test_a_group_is_told_again_until_it_knows_what_the_server_holds() -> None:
    """A change while the member joins, after it has told what it held, is news still; another state alone is none."""
    assignor = ShardAssignor(Shard(A, 0, holds_all=True))
    news = [assignor.has_news]  # it has not joined yet, and joins with that
    for numbers in (
        {},
        {3: ShardNumber(NumberState.LEAVING, B, C)},
        {3: ShardNumber(NumberState.LEFT, B, C)},
        {3: ShardNumber(NumberState.HELD, None, C)},
    ):
        assignor.shard = Shard(A, 0, holds_all=True, numbers=numbers)
        news.append(assignor.has_news)
        news.append(assignor.has_news)  # asking once may have been forgotten
        assignor.metadata([TOPIC])
        news.append(assignor.has_news)

    assert news == [False, *(False,) * 3, True, True, False, *(False,) * 3, True, True, False]


@given(_groups)
def test_a_partition_is_given_to_one_member_that_holds_it_or_to_nobody(claims: dict[str, Claim]) -> None:
    """Nobody gets it where no server holds it, or two do; otherwise somebody does, and only one."""
    assigned = assign_partitions(PLACES, claims)
    given_ = [place for places in assigned.members.values() for place in places]

    assert sorted([*given_, *assigned.unheld, *assigned.disputed]) == PLACES
    assert all(claims[member].holds(place.partition) for member, places in assigned.members.items() for place in places)
    if any(claim.shard_id and not claim.is_of_one_alone for claim in claims.values()):
        assert all(claims[member].shard_id for member in assigned.members)
        assert all(len(_servers(claims, place.partition)) == 1 for place in given_)
        assert all(not _servers(claims, place.partition) for place in assigned.unheld)
    assert all(len(_servers(claims, place.partition)) > 1 for place in assigned.disputed)


_owned = st.dictionaries(st.sampled_from("abcdef"), st.frozensets(st.sampled_from(PLACES)), min_size=1)


def _of_two_servers(owned: dict[str, frozenset[TopicPartition]], others: frozenset[int]) -> dict[str, Claim]:
    """Return members of two servers that share the numbers."""
    return {member: Claim(A if member < "c" else B, member < "c", others, had) for member, had in owned.items()}


@given(_owned, _numbers)
def test_members_of_two_servers_have_equal_shares_of_what_their_server_holds(
    owned: dict[str, frozenset[TopicPartition]], others: frozenset[int]
) -> None:
    """Whatever each had before: a member keeps what it had only as far as that leaves the others theirs."""
    claims = _of_two_servers(owned, others)
    given_ = assign_partitions(PLACES, claims).members
    for server in (A, B):
        loads = [len(given_.get(member, ())) for member, claim in claims.items() if claim.shard_id == server]
        assert not loads or max(loads) - min(loads) <= 1


@given(_owned, _numbers)
def test_what_was_assigned_stays_where_nothing_has_changed(
    owned: dict[str, frozenset[TopicPartition]], others: frozenset[int]
) -> None:
    """A rebalance of the same members moves nothing."""
    claims = _of_two_servers(owned, others)
    first = assign_partitions(PLACES, claims)
    again = {m: claim._replace(owned=frozenset(first.members.get(m, ()))) for m, claim in claims.items()}

    assert first.members == assign_partitions(PLACES, again).members


def test_a_member_that_leaves_moves_only_its_own_partitions() -> None:
    """And one that comes takes only its share."""
    claims = {name: Claim(A) for name in "abc"}
    three = assign_partitions(PLACES, claims).members
    claims = {name: Claim(A, owned=frozenset(three[name])) for name in "ab"}
    two = assign_partitions(PLACES, claims).members
    assert all(set(three[name]) <= set(two[name]) for name in "ab")

    claims = {name: Claim(A, owned=frozenset(two[name])) for name in "ab"} | {"d": Claim(A)}
    three = assign_partitions(PLACES, claims).members
    assert all(set(three[name]) <= set(two[name]) for name in "ab")
    assert 2 == len(three["d"])


def test_a_member_that_says_nothing_of_itself_holds_everything_while_all_do() -> None:
    """Once another one's server is not alone it gets nothing: its server may have let go of any number."""
    alone = {"old": Claim(), "new": Claim(A)}
    assert {"old": 4, "new": 4} == {name: len(each) for name, each in assign_partitions(PLACES, alone).members.items()}

    not_alone = {"old": Claim(), "new": Claim(A, others=frozenset({7}))}
    assigned = assign_partitions(PLACES, not_alone)
    assert {"new": PLACES[:7]} == assigned.members
    assert PLACES[7:] == assigned.unheld


@pytest.mark.parametrize("user_data", [None, b"", b"\x00\x01", b"{}", b"[]", b'{"shard":1}', b'{"shard":"x"}'])
def test_user_data_of_another_kind_says_nothing(user_data: bytes | None) -> None:
    """Of a version before, or of a later one that has changed it."""
    assert Claim() == Claim.decode(user_data)


@given(_claims.filter(lambda claim: claim.shard_id is not None))
def test_a_claim_survives_its_encoding(claim: Claim) -> None:
    """What a member says is what the leader reads."""
    assert claim == Claim.decode(claim.encode())


def _shard(*left: int) -> Shard:
    said = ShardNumber(NumberState.LEFT, B, None)
    return Shard(A, 0, holds_all=True, numbers=dict.fromkeys(left, said))


async def _assigned(settings: Settings, *groups: set[TopicPartition] | frozenset[TopicPartition]) -> bool:
    places = partitions_of(SEND_REQUESTS, settings.topic_partitions)
    return all(groups) and sorted(place for each in groups for place in each) == sorted(places)


async def _protocol(admin: AIOKafkaAdminClient, group: str) -> str:
    (found,) = await admin.describe_consumer_groups([group])
    _, _, _, _, protocol, *_ = found.groups[0]
    return str(protocol)


async def test_a_worker_of_the_version_before_and_a_new_one_share_a_group_until_a_second_server_is_there(
    settings: Settings,
) -> None:
    """They use the older one's protocol, and each partition has one reader; without the old one, the new protocol.

    A worker of a server that is not alone is refused in a group that has an old one, in words.
    """
    await prepare(settings)
    group, assignor = f"group-{uuid4().hex[:8]}", ShardAssignor(_shard())
    old, new = create_consumer(settings, group, 10), create_consumer(settings, group, 10, assignor)
    apart = create_consumer(settings, group, 10, ShardAssignor(_shard(0)))
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(admin_client(settings))
        stack.push_async_callback(new.stop)
        stack.push_async_callback(old.stop)
        for consumer in (old, new, apart):
            consumer.subscribe([SEND_REQUESTS])
        await asyncio.gather(old.start(), new.start())
        await eventually(lambda: _assigned(settings, old.assignment(), new.assignment()), "both have partitions")
        assert PROTOCOL_BEFORE == await _protocol(admin, group)

        with pytest.raises(InconsistentGroupProtocolError) as refused:
            await apart.start()
        assert "knows of one Postgres server only" in (operator_hint(refused.value) or "")

        await old.stop()
        await eventually(lambda: _assigned(settings, new.assignment()), "the new one has all")
        assert PROTOCOL == await _protocol(admin, group)


async def test_a_member_whose_server_lets_a_number_go_asks_again_and_has_it_no_more(settings: Settings) -> None:
    """The other partitions stay; it joins once each time, with one request."""
    await prepare(settings)
    assignor = ShardAssignor(_shard())
    consumer = create_consumer(settings, f"group-{uuid4().hex[:8]}", 10, assignor)
    consumer.subscribe([SEND_REQUESTS])
    await consumer.start()
    try:
        assert await _assigned(settings, consumer.assignment())
        assert 1 == consumer._coordinator.generation  # aiokafka's own would have joined twice
        assignor.shard = _shard(1)
        consumer.request_rejoin()
        await eventually(lambda: _assigned(settings, consumer.assignment(), {TopicPartition(SEND_REQUESTS, 1)}), "left")
    finally:
        await consumer.stop()
