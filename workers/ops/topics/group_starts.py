"""Where the groups begin: one without an offset, and lanes that go on with what is there of a topic now."""

import asyncio
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace
from time import monotonic

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import CommitFailedError

from infra.kafka.clients import committed_offsets, partitions_of, reader
from infra.kafka.topic_ids import topic_ids
from infra.settings import Settings
from schemas.catalogue import INPUT_TOPICS
from workers.ops.group_offsets import ask_coordinator, describe_group
from workers.ops.numbers import all_holdings, open_of_books
from workers.ops.topics.change import TopicChange, TopicsError, format_counted
from workers.ops.topics.ended import UNPUBLISHED_AT_MOST, EndedTopic, end_topic, find_ended, rows_of_lanes, start_lanes
from workers.topology import GROUP_OF

__all__ = ["plan_groups", "renew_lanes", "reset_group", "start_group"]

_WORKING = "Stable"  # a group whose members work
_COORDINATOR_SECONDS = 30.0
# From where on each lane's answers may be unpublished.
_UNPUBLISHED_FROM = (
    "select topic, partition, greatest(published, next_offset - $1, 0) as next_offset"
    " from lanes where next_offset is not null"
)
# Of lanes that were let go on, and have decided nothing since: `end_topic` sets their time so.
_RENEWED = (
    "select topic, partition, next_offset from lanes where next_offset is not null and topic_since > '-infinity'"
    " and as_of = topic_since + interval '1 millisecond'"
)


async def plan_groups(
    settings: Settings, admin: AIOKafkaAdminClient, existing: Container[str], ended: Mapping[str, EndedTopic]
) -> list[TopicChange]:
    """A group without an offset is given one: a worker never picks one by itself.

    It starts at the oldest record, or where the books know that it has been further (Kafka forgets the offsets of a
    group that rested for long) from where its answers may be unpublished: one that comes twice has the same event ids.

    A group whose offset is still that of records which are lost, though its lanes were let go on, is set back to where
    they go on: it could not be while its workers ran, or the process that did it was killed.
    """
    changes = []
    places_of = {topic: partitions_of(topic, settings.topic_partitions) for topic in INPUT_TOPICS}
    committed = {
        topic: await _committed(admin, GROUP_OF[topic], places)
        for topic, places in places_of.items()
        if topic in existing
    }
    # Only now: the lane of an offset that is committed meanwhile has decided something.
    unpublished = await _offsets_by_books(settings, _UNPUBLISHED_FROM, UNPUBLISHED_AT_MOST)
    renewed_lanes = await _offsets_by_books(settings, _RENEWED)
    for topic, places in places_of.items():
        group, known = GROUP_OF[topic], committed.get(topic, {})
        renewed = ended[topic].starts if topic in ended else {}
        missing = [place for place in places if known.get(place) is None and place.partition not in renewed]
        resumed = {place: unpublished[place] for place in missing if place in unpublished}
        if missing:
            counted = format_counted(len(missing) - len(resumed), "partition")
            text = f"start group {group} at the oldest record of {counted}"
            if resumed:
                text += f", near the end of the books of {len(resumed)}"
            starts = {place.partition: resumed.get(place, 0) for place in missing}
            changes.append(TopicChange("start", topic, text, group=group, starts=starts))
        left = {place: offset for place, offset in renewed_lanes.items() if place.partition not in renewed}
        if ahead := await _left_ahead(settings, known, left):
            numbers = ", ".join(map(str, sorted(ahead)))
            text = f"set group {group} back to where the books go on since records were lost, in partition {numbers}"
            changes.append(TopicChange("reset", topic, text, group=group, starts=ahead))
    return changes


async def _left_ahead(
    settings: Settings, known: Mapping[TopicPartition, int | None], renewed: Mapping[TopicPartition, int]
) -> dict[int, int]:
    """Return where partitions go on, by number, whose group is beyond that."""
    beyond = {place: offset for place, offset in renewed.items() if (known.get(place) or 0) > offset}
    if not beyond:
        return {}
    async with reader(settings) as consumer:
        oldest = await consumer.beginning_offsets(list(beyond))
    starts = {place: max(oldest[place], offset) for place, offset in beyond.items()}
    return {place.partition: start for place, start in starts.items() if (known[place] or 0) > start}


async def _committed(
    admin: AIOKafkaAdminClient, group: str, places: Sequence[TopicPartition]
) -> Mapping[TopicPartition, int | None]:
    """Return a group's offsets, once its coordinator knows them."""
    return await ask_coordinator(lambda: committed_offsets(admin, group, places), monotonic() + _COORDINATOR_SECONDS)


async def _offsets_by_books(settings: Settings, query: str, *arguments: object) -> dict[TopicPartition, int]:
    """Return the offsets that a query finds in the lanes' rows; nothing where there are no books yet."""
    rows = await rows_of_lanes(settings, query, *arguments)
    return {TopicPartition(row["topic"], row["partition"]): row["next_offset"] for row in rows}


async def start_group(settings: Settings, admin: AIOKafkaAdminClient, change: TopicChange) -> None:
    """Give a group its first offsets; lanes whose workers run wait for one, and look for it in the books, too."""
    places = [TopicPartition(change.topic, number) for number in change.starts or {}]
    known = await _committed(admin, change.group or "", places)
    # Whoever applied the same plan meanwhile may have started the group, which has read on since.
    starts = {place.partition: (change.starts or {})[place.partition] for place in places if known[place] is None}
    if not starts:
        return
    try:
        await _commit_starts(settings, admin, replace(change, starts=starts))
    except TopicsError:
        if not await start_lanes(settings, change.group or "", change.topic, starts):
            raise


async def reset_group(settings: Settings, admin: AIOKafkaAdminClient, change: TopicChange) -> None:
    """Set a group back in partitions where it is still beyond where the books go on.

    Raises:
        TopicsError: when its workers run.

    """
    planned = change.starts or {}
    known = await _committed(admin, change.group or "", [TopicPartition(change.topic, number) for number in planned])
    if starts := await _left_ahead(settings, known, await _offsets_by_books(settings, _RENEWED)):
        await _commit_starts(settings, admin, replace(change, starts=starts))


async def renew_lanes(
    settings: Settings, admin: AIOKafkaAdminClient, planned: Sequence[TopicChange], created: Collection[str]
) -> None:
    """Let lanes go on with the topics that are there now: in the books first, where their owners see it.

    The broker refuses the group's offsets while workers run. Their lanes begin by the books then, once they have asked
    for the offset often enough.

    Args:
        settings: where Kafka and the books are.
        admin: an open client.
        planned: the changes.
        created: the topics that this plan has just created. Of the others, only partitions that have still ended go on
            elsewhere: whoever applied the same plan meanwhile has let them go on already.

    Raises:
        TopicsError: when workers run of a group whose offset is beyond where its lanes go on; the next plan has it.

    """
    ids = await topic_ids(admin, [change.topic for change in planned])
    changes = [change for change in planned if change.topic in created]
    if older := [change for change in planned if change.topic not in created]:
        ended = await find_ended(settings, admin, ids.keys() - created)
        changes += [replace(each, starts=starts) for each in older if (starts := _still_ended(each, ended))]
    for server, holdings in await all_holdings(settings):
        async with open_of_books(server) as connection:
            for change in changes:
                starts = {n: offset for n, offset in (change.starts or {}).items() if holdings.has_number(n)}
                await end_topic(connection, change.group or "", change.topic, ids.get(change.topic), starts)
    refused = []
    for change in changes:
        places = [TopicPartition(change.topic, number) for number in change.starts or {}]
        try:
            await _commit_starts(settings, admin, change)
        except TopicsError as error:
            if any(each is not None for each in (await _committed(admin, change.group or "", places)).values()):
                refused.append(str(error))
    if refused:
        raise TopicsError("; ".join(refused))


def _still_ended(change: TopicChange, ended: Mapping[str, EndedTopic]) -> dict[int, int]:
    starts = ended[change.topic].starts if change.topic in ended else {}
    return {number: starts[number] for number in change.starts or {} if number in starts}


async def _commit_starts(settings: Settings, admin: AIOKafkaAdminClient, change: TopicChange) -> None:
    """Commit offsets of a group, none before the oldest record. Refused by the broker while members live."""
    group = change.group or ""
    starts = {TopicPartition(change.topic, number): offset for number, offset in (change.starts or {}).items()}
    deadline = monotonic() + _COORDINATOR_SECONDS
    async with reader(settings, group) as consumer:
        oldest = await consumer.beginning_offsets(list(starts))
        consumer.assign(list(starts))
        while True:
            try:
                await consumer.commit({place: max(oldest[place], offset) for place, offset in starts.items()})
            except CommitFailedError as error:
                state, members, _ = await describe_group(admin, group)
                if state == _WORKING or monotonic() > deadline:
                    counted = format_counted(len(members), "member")
                    raise TopicsError(
                        f"group {group} could not be started, it is {state} with {counted}: stop its"
                        f" workers first (one that was killed counts for {settings.session_seconds:.0f} s), then run"
                        " `inmail topics apply` again"
                    ) from error
                await asyncio.sleep(0.2)  # members that are gone are being counted out
            else:
                return
