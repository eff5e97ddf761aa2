#!/usr/bin/env bash
# A consumer that offers two partition assignors, as one does to change from one to the other without a stop, joins its
# group twice each time: first with the first assignor alone, then with both. The group rebalances twice, and a group
# whose members have only the second one refuses the first attempt.
#
# Version: aiokafka 0.14.0, broker Apache Kafka 4.2.1.
# Behaviour: a consumer alone in its group, with one assignor: one JoinGroup, generation 1. With two assignors of
#   aiokafka's own: two JoinGroup requests, of which the first names only the first assignor, and generation 2. Beside a
#   member that has the second one only, the first request is refused (error 23, INCONSISTENT_GROUP_PROTOCOL), which
#   nobody is told, and the second one is taken.
# Source: aiokafka/consumer/group_coordinator.py lines 1269-1296: the request is sent within the loop that collects the
#   assignors' metadata, and the answer to the last one is looked at.
# Seen:
#   as before: one assignor: one assignor: [['range']] generation 1
#   as before: two assignors: two assignors: [['range'], ['range', 'roundrobin']] generation 2
#   as before: mixed group: beside a member with the second: answers [23, 0]
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
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.protocol.group import JoinGroupRequest

BROKER = sys.argv[1]
BOTH = [RangePartitionAssignor, RoundRobinPartitionAssignor]
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def join(group, assignors):
    """Start a consumer; return it, the protocols of each JoinGroup that names its member, and the answers' errors."""
    consumer = AIOKafkaConsumer(
        "t", bootstrap_servers=BROKER, group_id=group, partition_assignment_strategy=assignors,
        heartbeat_interval_ms=200, session_timeout_ms=6_000)
    asked, answers = [], []
    send = consumer._client.send

    async def watch(node, request, **options):
        answer = await send(node, request, **options)
        # Any other answer, as of a coordinator that loads or that wants a member id, is no decision about the protocols.
        if isinstance(request, JoinGroupRequest) and answer.error_code in (0, 23):
            asked.append([name for name, _ in request._group_protocols])
            answers.append(answer.error_code)
        return answer

    consumer._client.send = watch
    await consumer.start()
    return consumer, asked, answers


async def main():
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    await admin.create_topics([NewTopic("t", 1, 1)])
    for name, assignors in (("one assignor", BOTH[:1]), ("two assignors", BOTH)):
        consumer, asked, _ = await join(name.replace(" ", "-"), assignors)
        print(f"{name}: {asked} generation {consumer._coordinator.generation}")
        await consumer.stop()

    first, _, _ = await join("mixed", BOTH[1:])
    second, _, answers = await join("mixed", BOTH)
    print(f"beside a member with the second: answers {answers[:2]}")
    for consumer in (first, second):
        await consumer.stop()
    await admin.close()


asyncio.run(main())
PY
"$PYTHON" "$WORK/run.py" "$BOOTSTRAP" >"$WORK/seen"
expect 'one assignor' "one assignor: [['range']] generation 1" "$(sed -n 1p "$WORK/seen")"
expect 'two assignors' "two assignors: [['range'], ['range', 'roundrobin']] generation 2" "$(sed -n 2p "$WORK/seen")"
expect 'mixed group' 'beside a member with the second: answers [23, 0]' "$(sed -n 3p "$WORK/seen")"
