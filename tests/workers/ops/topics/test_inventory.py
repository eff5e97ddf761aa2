"""What the topics hold, and a look at their records, on a real broker."""

from collections.abc import AsyncGenerator, Sequence
from uuid import uuid4
from weakref import ref

import pytest
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import NotSetUpError, partition_of
from infra.settings import Settings
from schemas.catalogue import INPUT_TOPICS, SEND_REQUESTS, TOPICS
from tests.workers.wire import ends, publish
from workers.console.record_json import record_json
from workers.ops.topics import newest_records
from workers.ops.topics.inventory import TopicFacts, read_inventory
from workers.ops.topics.newest_records import NoSuchPartitionError, read_newest


async def _facts(settings: Settings) -> TopicFacts:
    return next(each for each in await read_inventory(settings) if each.topic == SEND_REQUESTS)


async def _publish(settings: Settings, values: Sequence[bytes]) -> int:
    """Publish values under one key; return its partition."""
    key = uuid4().hex.encode()
    await publish(settings, SEND_REQUESTS, [(key, value) for value in values])
    return partition_of(key, settings.topic_partitions)


async def test_a_topic_tells_its_offsets_sizes_and_rates(cluster: Settings) -> None:
    """What comes between two looks is in the ends, the sizes and the last minute; the others stay as they were."""
    before = await _facts(cluster)
    partition = await _publish(cluster, [b"x" * 1000] * 7)
    after = await _facts(cluster)

    grown = [(now.end or 0) - (then.end or 0) for now, then in zip(after.partitions, before.partitions, strict=True)]
    assert [7 if each == partition else 0 for each in range(cluster.topic_partitions)] == grown
    there = after.partitions[partition]
    assert (1, 1) == (there.replicas, there.in_sync)
    assert (there.bytes or 0) - (before.partitions[partition].bytes or 0) >= 7 * 1000
    assert 7 <= (there.last_minute or 0) <= (there.last_hour or 0) <= (there.end or 0)
    assert {each.partition: each.end for each in after.partitions} == {
        place.partition: end for place, end in (await ends(cluster, SEND_REQUESTS)).items()
    }


async def test_all_topics_are_told_with_the_settings_that_hold(cluster: Settings) -> None:
    """Those that were given to a topic itself are named."""
    found = await read_inventory(cluster)

    assert list(TOPICS) == [each.topic for each in found]
    assert set(INPUT_TOPICS) == {each.topic for each in found if each.is_input}
    for each in found:
        assert "retention.ms" in each.own
        assert each.config["cleanup.policy"] == "delete"


async def test_the_newest_records_are_shown_first_and_others_by_their_offset(cluster: Settings) -> None:
    """Of one partition or of all; from an offset on, in the order of the partition."""
    partition = await _publish(cluster, [b"%d" % number for number in range(30)])

    newest = await read_newest(cluster, SEND_REQUESTS, 5, partition)
    assert [b"29", b"28", b"27", b"26", b"25"] == [record.value for record in newest]
    start = newest[-1].offset - 10
    some = await read_newest(cluster, SEND_REQUESTS, 3, partition, start)
    assert [(start, b"15"), (start + 1, b"16"), (start + 2, b"17")] == [(each.offset, each.value) for each in some]
    assert newest[0].offset in {
        each.offset for each in await read_newest(cluster, SEND_REQUESTS, 5) if each.partition == partition
    }
    assert [] == await read_newest(cluster, SEND_REQUESTS, 3, partition, newest[0].offset + 1)


async def test_a_partition_or_topic_that_does_not_exist_is_named(cluster: Settings) -> None:
    """As an error of its own, not as an empty answer."""
    with pytest.raises(NoSuchPartitionError, match="has no partition 999"):
        await read_newest(cluster, SEND_REQUESTS, 1, 999)
    with pytest.raises(NotSetUpError):
        await read_newest(cluster, f"none-{uuid4().hex}", 1)


async def test_a_record_that_is_no_event_is_shown_as_it_is(cluster: Settings) -> None:
    """With a dump of bytes that are no text."""
    partition = await _publish(cluster, [b"\xff\xfe"])

    shown = record_json((await read_newest(cluster, SEND_REQUESTS, 1, partition))[0])
    assert (None, None, None, 2) == (shown["type"], shown["id"], shown["subject"], shown["bytes"])
    assert shown["value"].startswith("00000000  ff fe")


async def test_a_look_at_many_partitions_holds_only_the_records_that_it_shows(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic of a thousand partitions has up to a thousand times as many records to choose from."""
    seen: list[ref[ConsumerRecord]] = []
    most = 0

    async def read_to(*_: object) -> AsyncGenerator[ConsumerRecord, None]:
        nonlocal most
        for time in range(300):
            record = ConsumerRecord(SEND_REQUESTS, time % 30, time // 30, time, 0, None, b"x", None, 0, 1, ())
            seen.append(ref(record))
            yield record
            most = max(most, sum(each() is not None for each in seen))

    monkeypatch.setattr(newest_records, "read_to", read_to)
    newest = await read_newest(cluster, SEND_REQUESTS, 5)

    assert [299, 298, 297, 296, 295] == [each.timestamp for each in newest]
    assert most <= 8
