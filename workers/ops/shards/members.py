"""Whether the workers' groups are free of workers that know of one Postgres server only.

Such a worker looks at no number before it takes a lane, so it would go on with one that has left. A group takes a
protocol that all members offer, the one that most like best: with members of this version alone that is `PROTOCOL`,
which an older one does not offer.
"""

import asyncio
from time import monotonic
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient

from infra.kafka.clients import admin_client
from infra.kafka.shard_assignor import PROTOCOL
from infra.settings import Settings
from workers.ops.group_offsets import GroupDescription, ask_coordinator, describe_group
from workers.ops.operations import RefusedError
from workers.topology import GROUP_OF

__all__ = ["check_members"]

_POLL_SECONDS: Final = 0.2
_SESSIONS: Final = 1.5  # for which a group may wait for a member that was killed, in session timeouts


async def check_members(settings: Settings) -> None:
    """Check that no group has a member of a version that knows of one server only; wait for one that rebalances.

    Raises:
        RefusedError: when one has, or has rebalanced for longer than a killed member keeps it waiting.
        KafkaError: when Kafka does not answer.

    """
    async with admin_client(settings) as admin:
        for group in GROUP_OF.values():
            found = await _settled(admin, group, settings.session_seconds * _SESSIONS)
            if found.members and found.protocol != PROTOCOL:
                raise RefusedError(
                    f"group {group} has a worker of a version that knows of one Postgres server only, which would go on"
                    f" with numbers that have left: replace all workers by this version first. Members:"
                    f" {', '.join(sorted(set(found.members)))}"
                )


async def _settled(admin: AIOKafkaAdminClient, group: str, seconds: float) -> GroupDescription:
    """Return a group when its members have agreed on a protocol; Kafka tells none before."""
    deadline = monotonic() + seconds
    while True:
        found = await ask_coordinator(lambda: describe_group(admin, group), deadline)
        if not found.members or found.state == "Stable":
            return found
        if monotonic() > deadline:
            raise RefusedError(
                f"group {group} has been rebalancing for {seconds:.0f} s ({found.state}), so that nobody can tell"
                " which versions its workers are of: see `inmail lag`, and run the same command again"
            )
        await asyncio.sleep(_POLL_SECONDS)
