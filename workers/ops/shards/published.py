"""Answers that another server could not publish: those to records that came in on a partition of another number."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from infra.kafka.clients import admin_client, committed_offsets
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from workers.ops.group_offsets import ask_coordinator
from workers.ops.operations import RefusedError
from workers.topology import GROUP_OF, WORKER_OF

__all__ = ["PublishedCheck", "UnpublishedError", "open_published_check"]

_POLL_SECONDS: Final = 0.2
_LANES_SECONDS: Final = 1.5  # a lane waits 2 s for a lock
_WAIT_SECONDS: Final = 60.0

# A tick books lots of its own number only.
_GROUPS: Final = [GROUP_OF[topic] for topic in (BILLING_EVENTS, SEND_REQUESTS)]
_LANES: Final = (
    "select topic, partition, published from lanes where next_offset > coalesce(published, 0)"
    " and consumer_group = any($1)"
)
# Rows of records that came in on another partition than their account's, from the offsets on up to which answers are
# published: those of the lanes of number $1, or those of its accounts.
_UNPUBLISHED: Final = """
select u.topic, u.partition, count(*) as rows
from unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[])
    as u (worker, consumer_group, topic, partition, published)
inner join lanes as l on l.consumer_group = u.consumer_group and l.topic = u.topic and l.partition = u.partition
cross join lateral (
    select x.account from journal as x
    where
        x.source_partition = u.partition and x.source_offset >= u.published and x.source_offset < l.next_offset
        and x.worker = u.worker and x.as_of > l.topic_since
    offset 0
) as j
inner join accounts as a on a.account = j.account
where (a.partition = $1) <> (u.partition = $1)
group by u.topic, u.partition
order by 1, 2
limit 1
"""
_ENDED: Final = "select topic, partition from ended_topics where unpublished_from is not null limit 1"


class UnpublishedError(RefusedError):
    """Answers that only this server can publish are not published yet. The message says which."""


class _Unpublished(NamedTuple):
    """A lane with answers that only this server can publish."""

    topic: str
    partition: int
    rows: int


class PublishedCheck:
    """Tells what the lanes of a server have stored of accounts with another number and not published yet."""

    def __init__(self, admin: AIOKafkaAdminClient, connection: Connection) -> None:
        self._admin, self._connection = admin, connection

    async def check_lanes(self, number: int) -> None:
        """Wait a moment, while the lanes of a number can store nothing, until they published what only they can.

        Raises:
            UnpublishedError: when they have not.
            KafkaError, TimeoutError: when the committed offsets are not known in time.

        """
        async with asyncio.timeout(2 * _LANES_SECONDS):
            await self._wait(number, _LANES_SECONDS, own=True)

    async def check_others(self, number: int) -> None:
        """Wait until other lanes published what they stored of a number that they store nothing of any more.

        Raises:
            UnpublishedError: when they have not after a minute.
            KafkaError: when the committed offsets are not known.

        """
        await self._wait(number, _WAIT_SECONDS, own=False)

    async def _wait(self, number: int, seconds: float, *, own: bool) -> None:
        deadline = monotonic() + seconds
        while (found := await ask_coordinator(lambda: self._find(number, own=own), deadline)) is not None:
            if monotonic() > deadline:
                raise UnpublishedError(_sentence(number, found))
            await asyncio.sleep(_POLL_SECONDS)

    async def _find(self, number: int, *, own: bool) -> _Unpublished | None:
        """Return a lane with such answers. Kafka is asked only of lanes whose rows do not say that all is published."""
        if (ended := await self._connection.fetchrow(_ENDED)) is not None:
            return _Unpublished(ended["topic"], ended["partition"], 0)
        rows = [row for row in await self._connection.fetch(_LANES, _GROUPS) if (row["partition"] == number) is own]
        published = {TopicPartition(row["topic"], row["partition"]): row["published"] or 0 for row in rows}
        for group in _GROUPS:
            places = [place for place in published if GROUP_OF[place.topic] == group]
            for place, offset in (await committed_offsets(self._admin, group, places) if places else {}).items():
                published[place] = max(published[place], offset or 0)
        return await self._look(number, published) if published else None

    async def _look(self, number: int, published: Mapping[TopicPartition, int]) -> _Unpublished | None:
        async with self._connection.transaction():
            # The index has the few rows in between: lanes wait meanwhile, and must not wait for the whole journal.
            await self._connection.execute("set local enable_seqscan = off; set local enable_bitmapscan = off")
            row = await self._connection.fetchrow(
                _UNPUBLISHED,
                number,
                [WORKER_OF[place.topic].value for place in published],
                [GROUP_OF[place.topic] for place in published],
                [place.topic for place in published],
                [place.partition for place in published],
                list(published.values()),
            )
        return None if row is None else _Unpublished(row["topic"], row["partition"], row["rows"])


def _sentence(number: int, found: _Unpublished) -> str:
    place = f"{found.topic}/{found.partition}"
    if not found.rows:
        return (
            f"{place} still has answers of a topic that was created again to publish: wait for its lane (`inmail lag`)"
        )
    return (
        f"{place} has {found.rows:,} answer{'s'[: found.rows != 1]} stored and not published, of accounts whose number"
        f" is {'another' if found.partition == number else number}: a producer does not partition by murmur2 of the"
        " key. They can be published only from here: let the workers of this server publish them (`inmail lag`), and"
        " run the same command again"
    )


@asynccontextmanager
async def open_published_check(settings: Settings, connection: Connection) -> AsyncIterator[PublishedCheck]:
    """Open a check of what a server's lanes have published.

    Raises:
        KafkaError: when Kafka cannot be reached.

    """
    async with admin_client(settings) as admin:
        yield PublishedCheck(admin, connection)
