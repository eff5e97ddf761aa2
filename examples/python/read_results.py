"""Acts on each answer to a send request once: python read_results.py [GROUP].

Prints a JSON line for each; ends by SIGTERM.
"""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError

SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
REMEMBERED = 100_000
AT_ONCE = 100  # records between two commits: their work has to end within max_poll_interval_ms, 5 minutes by default


class Seen:
    """Ids of events that were acted on.

    A service keeps them where it keeps what it does, as a unique column of the same transaction: memory forgets at a
    restart, and the records since the last commit come again.
    """

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}  # in the order of their arrival

    def __contains__(self, id_: str) -> bool:
        return id_ in self._ids

    def add(self, id_: str) -> None:
        """Remember an id, and forget the oldest where there are too many."""
        self._ids[id_] = None
        if len(self._ids) > REMEMBERED:
            del self._ids[next(iter(self._ids))]


def act(event: dict[str, Any]) -> None:
    """Do what an answer says. Members and codes that are not known are no error: `outcome` decides."""
    data = event["data"]
    if data["code"] == "balance_not_current":
        action = "wait"  # not final: whoever asked sends the request again, see send_inmail.py
    elif data["code"] == "key_conflict":
        # Another body under an id that has its answer, which stands: its message may have been delivered. Whoever sent
        # the other body has to be told.
        action = "ignore"
    else:
        action = "deliver" if data["outcome"] == "accepted" else "refuse"
    line = {"action": action, "account": event["subject"], "request_id": data["request_id"], "code": data["code"]}
    print(json.dumps(line), flush=True)


async def read_results(group: str) -> None:
    """Read until SIGTERM. Offsets are committed after the work: a crash repeats, and loses nothing."""
    consumer = AIOKafkaConsumer(
        "inmail.send-results",
        bootstrap_servers=SERVERS,
        group_id=group,
        isolation_level="read_committed",  # not the default: without it, answers of aborted transactions are read too
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    stop, seen = asyncio.Event(), Seen()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with consumer:
        while not stop.is_set():
            batches = await consumer.getmany(timeout_ms=500, max_records=AT_ONCE)
            for record in (record for batch in batches.values() for record in batch):
                event = json.loads(record.value)
                # The first answer again (`repeat`), or a record read twice, has the id of the first.
                if event["type"] == "inmail.send.decided.v1" and event["id"] not in seen:
                    # In a thread: work on the loop would hold up heartbeats, and the group would go on without us.
                    await asyncio.to_thread(act, event)
                    seen.add(event["id"])  # after the work: known before it, an answer would be lost where that fails
            if batches:
                try:
                    await consumer.commit()
                except CommitFailedError:
                    # The group has given the partitions to others, or to us again: what was not committed is read
                    # again, and `seen` has what was done.
                    continue


if __name__ == "__main__":
    asyncio.run(read_results(sys.argv[1] if len(sys.argv) > 1 else "delivery-example"))
