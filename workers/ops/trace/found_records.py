"""Finds single records in the topics: an event by its id, and undecided records."""

from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from pydantic_core import from_json

from infra.clock import nearest_instant
from schemas.catalogue import CREDIT_EVENTS, INPUT_TOPICS, SEND_RESULTS
from schemas.content_modes import read_request_id
from workers.ops.books.balance import readable_account_id
from workers.ops.trace.topic_search import Search

__all__ = ["FoundRecord", "event_id_of", "find_event", "find_undecided", "found_record"]


class FoundRecord(NamedTuple):
    """A record found in a topic."""

    topic: str
    partition: int
    offset: int
    at: datetime  # by the broker
    repeat: bool = False  # of a result: whether it answers another record than the decided one


async def find_event(search: Search, id_: UUID) -> dict[str, Any] | None:
    """Return the event with an id among the newest records of the result topics, None if it is not found.

    Raises:
        KafkaError: when the cluster cannot be reached, or stopped answering.

    """
    name = str(id_).encode()
    windows = [
        search.newest_window(place) for topic in (SEND_RESULTS, CREDIT_EVENTS) for place in search.partitions(topic)
    ]
    async with aclosing(search.read(windows, "results")) as records:
        async for record in records:
            if name in (record.value or b"") and event_id_of(record) == id_:
                event: dict[str, Any] = from_json(record.value)
                return event
    return None


async def find_undecided(
    search: Search,
    id_: UUID | None,
    account: str | None,
    decided: Mapping[TopicPartition, int],
    is_known: Callable[[int], bool],
) -> list[FoundRecord]:
    """Return the undecided records of a request or, without an id, of an account.

    An account's records are searched in the partitions of its key.

    Args:
        search: the open search.
        id_: a request id; None: all records of the account.
        account: the account id.
        decided: the next offset to decide of each input partition.
        is_known: whether `decided` has the partitions with a number; others are not searched.

    Raises:
        KafkaError: when the cluster cannot be reached, or stopped answering.

    """
    key = None
    places = [place for topic in INPUT_TOPICS for place in search.partitions(topic)]
    if id_ is None and account is not None:
        readable = readable_account_id(account)
        key = readable.encode()
        places = [search.account_partition(topic, readable) for topic in INPUT_TOPICS]
    windows = [search.window_from(place, decided.get(place, 0)) for place in places if is_known(place.partition)]
    undecided = search.read(windows, "undecided records")
    return [
        found_record(record) async for record in undecided if (record.key == key if key else event_id_of(record) == id_)
    ]


def found_record(record: ConsumerRecord, *, repeat: bool = False) -> FoundRecord:
    """Return the position and time of a record."""
    return FoundRecord(record.topic, record.partition, record.offset, nearest_instant(record.timestamp), repeat)


def event_id_of(record: ConsumerRecord) -> UUID | None:
    """Return the id of the event in a record, or what stands for it; None if there is none."""
    return read_request_id(record.headers, record.value)
