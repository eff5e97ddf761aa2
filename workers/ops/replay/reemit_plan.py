"""Plans a reemission: selects stored rows as the events they were published as, in an order that can be resumed.

The journal's rows come first, account by account in the order of sequence, then the answers to ticks. Repeats and dead
letters are never sent again, since the database has no rows for them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from infra.kafka.clients import admin_client
from infra.kafka.topic_ids import topic_ids
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import ALL_TOPICS, CREDIT_EVENTS, SEND_RESULTS
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.shards import Holdings
from workers.ops.books.whole_books import check_whole_books
from workers.ops.numbers import naming_part, one_server_of
from workers.ops.operations import RefusedError
from workers.ops.replay.reemit_rows import RowFilter, RowPosition, count_events
from workers.ops.replay.server_parts import PartPlan, Resumption, ServerParts, Unfinished, plan_parts

__all__ = ["VERB", "ReemitPlan", "operation_arguments", "plan_reemit"]

VERB = "reemit"


@dataclass(slots=True, kw_only=True)
class ReemitPlan(PartPlan):
    """The events to send."""

    client_id = f"inmail-{VERB}"

    to: str | None  # None: each event goes to the topic it was published to
    partitions: Mapping[str, int]  # number of partitions of each target topic
    events: Counter[str] = field(default_factory=Counter)  # by topic
    position: list[Any] = field(default_factory=RowPosition().summary)
    topic_ids: Mapping[str, str] = field(default_factory=dict)  # of the target topics that are there now

    @property
    def count(self) -> int:
        """The number of events to send."""
        return self.events.total()

    @property
    def start(self) -> RowPosition:
        """The position after which the first event comes."""
        part, first, second, third = self.position
        return RowPosition(part, first, second, UUID(third))

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        own = {"events": self.count, "by_topic": dict(sorted(self.events.items())), "to": self.to}
        return own | PartPlan.summary(self)


def operation_arguments(selection: RowFilter, to: str | None, topic_ids: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a reemission for JSON: one with the same arguments resumes it.

    A topic that was created again has another id: nothing that was sent before is in it.
    """
    return {"selection": selection.summary(), "to": to, "topic_ids": dict(topic_ids)}


async def plan_reemit(
    settings: Settings, selection: RowFilter, to: str | None, rate: float, *, from_start: bool = False
) -> ReemitPlan:
    """Return the plan of a reemission, without sending anything.

    Args:
        settings: where Kafka and Postgres are.
        selection: the filter.
        to: a topic for all events; None: each event goes to the topic it was published to.
        rate: events a second.
        from_start: begin at the first row, instead of resuming a reemission with the same arguments.

    Raises:
        RefusedError: when the topic is one of this system's, or does not exist, or the request is unknown.
        UnknownAccountError, NotSetUpError: when the ledger has no such account, or was never migrated.
        PartOfBooksError: when the only server that is named holds some of the numbers.
        NotHeldError, ServerError: of several servers, as `plan_parts` and `one_server_of` raise them.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    partitions, ids = await _read_targets(settings, to)
    await check_whole_books(settings)
    own = await one_server_of(settings, selection.account, selection.partition)

    async def plan_part(connection: Connection, holdings: Holdings, earlier: Unfinished | None) -> ReemitPlan:
        if selection.account is not None and not await connection.fetchval(
            "select exists (select from accounts where account_id = $1)", selection.account
        ):
            raise UnknownAccountError(selection.account)
        plan = ReemitPlan(rate=rate, to=to, partitions=partitions, numbers=holdings.counted, topic_ids=ids)
        if earlier is not None and "position" in earlier.result:
            plan.resume(earlier)
        plan.events = await count_events(connection, selection, plan.start, plan.numbers)
        return plan

    resumption = None if from_start else Resumption(VERB, operation_arguments(selection, to, ids))
    with naming_part(settings, own):
        plan = await plan_parts(own, resumption, plan_part)
    if isinstance(plan, ServerParts):
        events = sum((part.events for part in plan.plans), Counter[str]())
        plan = ReemitPlan(rate=rate, to=to, partitions=partitions, events=events, topic_ids=ids, **plan.sums())
    if selection.request is not None and not plan.count and plan.resumes is None and not plan.silent:
        raise RefusedError(f"the ledger has no matching row of request {selection.request}")
    return plan


async def _read_targets(settings: Settings, to: str | None) -> tuple[dict[str, int], dict[str, str]]:
    """Return how many partitions each target topic has, and its id; refuse a topic that must not be written to."""
    if to in ALL_TOPICS:
        raise RefusedError(
            f"{to} is a topic of this system: its workers read it, or its readers expect one kind of event there."
            " Without --to, each event goes to the topic it was published to"
        )
    if to is not None and to.startswith("__"):
        raise RefusedError(f"{to} is an internal topic of Kafka")
    wanted = [to] if to is not None else [SEND_RESULTS, CREDIT_EVENTS]
    async with admin_client(settings) as admin:
        rows = await admin.describe_topics()  # of all: a broker may create a topic that is described by name
        ids = await topic_ids(admin, wanted)
    found = {row["topic"]: len(row["partitions"]) for row in rows if row["error_code"] == 0}
    if missing := [topic for topic in wanted if topic not in found]:
        raise RefusedError(
            f"there is no topic {missing[0]}: create it first, with as many partitions as {SEND_RESULTS} has"
            f" ({found.get(SEND_RESULTS, 0)}) to keep accounts where they are"
        )
    return {topic: found[topic] for topic in wanted}, {topic: str(topic_id) for topic, topic_id in sorted(ids.items())}
