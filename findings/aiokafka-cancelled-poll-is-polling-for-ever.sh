#!/usr/bin/env bash
# One `getmany()` that is cancelled, by a timeout around it say, and aiokafka never again notices that a consumer has
# stopped polling: it keeps its partitions for as long as the process lives.
#
# Version: aiokafka 0.14.0, broker Apache Kafka 4.2.1.
# Behaviour: two consumers, each alone in its group, with max_poll_interval_ms=2000. Each polls twice, one after the
#   other has a poll of its cut short by `asyncio.timeout`, and then polls no more. The one leaves its group after
#   2 seconds, as it should; the other is a member after 10 seconds still, and would be after a day.
# Source: aiokafka/consumer/subscription_state.py lines 291-297: `fetch_context` counts a poll, yields, and counts it
#   off without "finally"; what is raised inside leaves the count at 1, and `fetcher_idle_time` (300-305) answers 0
#   from then on, which is what the heartbeat (group_coordinator.py 791) compares with the limit.
# Seen:
#   as before: after 10 s without a poll: all polls returned: Empty, members: 0
#   as before: after 10 s without a poll: one poll cancelled: Stable, members: 1
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

kafka_install 4.2.1 aiokafka==0.14.0
kafka_format
kafka_start
cat >"$WORK/run.py" <<'PY'
import asyncio
import logging
import sys

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

BROKER = sys.argv[1]
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def main():
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    await admin.create_topics([NewTopic("t", 1, 1)])
    consumers = {}
    for group in ("all polls returned", "one poll cancelled"):
        consumers[group] = AIOKafkaConsumer(
            "t", bootstrap_servers=BROKER, group_id=group, max_poll_interval_ms=2_000, heartbeat_interval_ms=500)
        await consumers[group].start()
        await consumers[group].getmany(timeout_ms=100)

    try:
        async with asyncio.timeout(0.2):
            await consumers["one poll cancelled"].getmany(timeout_ms=5_000)
    except TimeoutError:
        pass
    for consumer in consumers.values():
        await consumer.getmany(timeout_ms=100)

    await asyncio.sleep(10)  # nobody polls
    for group in consumers:
        [answer] = await admin.describe_consumer_groups([group])
        [(_, _, state, _, _, members)] = answer.groups
        print(f"{group}: {state}, members: {len(members)}")
    for consumer in consumers.values():
        await consumer.stop()
    await admin.close()


asyncio.run(main())
PY
"$PYTHON" "$WORK/run.py" "$BOOTSTRAP" >"$WORK/seen"
expect 'after 10 s without a poll' 'all polls returned: Empty, members: 0' "$(sed -n 1p "$WORK/seen")"
expect 'after 10 s without a poll' 'one poll cancelled: Stable, members: 1' "$(sed -n 2p "$WORK/seen")"
