"""Starts brokers again whose group coordinator has given up: no worker can mend that, and nothing is lost meanwhile.

A broker of 4.2.1 that was killed may load a group twice and then answer no JoinGroup until it loads it again, or load
it again and again: each time it finds that it has not loaded all, for a minute once there are 40,000 commits to load
(docs/kafka-versions.md). One that is stopped in an orderly way has no leadership to lose when it starts: it loads once.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from time import monotonic

from aiokafka.errors import KafkaError

from infra.kafka.clients import admin_client
from infra.local.stack import LocalStack
from infra.settings import Settings

__all__ = ["Coordinators"]

_LOOK_SECONDS = 3.0
_LOADS_AGAIN = b"is out of sync with the underlying log"  # in a broker's log, where a coordinator has not loaded all
_LOOKS_AGAIN = 4  # in a row at which it was said, and more than once: elsewhere it is over by then
_STANDS_SECONDS = 60.0  # without a look at which its members had their partitions: longer than any recovery


class Coordinators:
    """Watches over the coordinators of some groups. Whoever kills a broker holds `servers` until it runs again."""

    def __init__(
        self, stack: LocalStack, settings: Settings, groups: Sequence[str], disturb: Callable[[], None]
    ) -> None:
        """Take the brokers, the groups, and what to call before brokers are started again."""
        self.stack, self._settings, self._groups, self._disturb = stack, settings, groups, disturb
        self.servers = asyncio.Lock()
        self.restarts = 0
        self._read_to: defaultdict[int, int] = defaultdict(int)  # of each broker's log

    async def run(self) -> None:
        """Look until cancelled."""
        stable_at = dict.fromkeys(self._groups, monotonic())
        loads: deque[int] = deque(maxlen=_LOOKS_AGAIN)
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for group in self._groups:
                if await self._is_stable(group):
                    stable_at[group] = monotonic()
            loads.append(await asyncio.to_thread(self._count_loads))
            loads_again = len(loads) == _LOOKS_AGAIN and min(loads) > 1
            if loads_again or monotonic() - min(stable_at.values()) > _STANDS_SECONDS:
                loads.clear()
                async with self.servers:
                    self._disturb()
                    await asyncio.to_thread(self._restart)
                self.restarts += 1
                stable_at = dict.fromkeys(self._groups, monotonic())

    async def _is_stable(self, group: str) -> bool:
        try:
            async with asyncio.timeout(_LOOK_SECONDS), admin_client(self._settings) as admin:
                (response,) = await admin.describe_consumer_groups([group])
        except (KafkaError, TimeoutError):
            return False
        error, _, state = response.groups[0][:3]
        return not error and state == "Stable"

    def _count_loads(self) -> int:
        """Return how often brokers have said since the last look that a coordinator has to load a group once more."""
        said = 0
        for node in range(1, self.stack.brokers + 1):
            with self.stack.broker_log(node).open("rb") as log:
                log.seek(self._read_to[node])
                said += log.read().count(_LOADS_AGAIN)
                self._read_to[node] = log.tell()
        return said

    def _restart(self) -> None:
        for node in range(1, self.stack.brokers + 1):
            self.stack.stop_broker(node)
            self.stack.start_kafka(node)
