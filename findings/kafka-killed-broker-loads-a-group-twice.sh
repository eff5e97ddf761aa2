#!/usr/bin/env bash
# A single broker that was killed loads its consumer groups twice when it starts again: for the leadership from before
# the crash, and for the one that it is given a moment later. One that was stopped in order loads them once.
#
# Version: Apache Kafka 4.2.1, one node that is broker and controller, its defaults.
# Behaviour: of each partition of __consumer_offsets the log has, after a kill, "Scheduling loading" with an epoch, the
#   same with a later epoch, and an end of each; after SIGTERM one of each. If the first load ends after the second has
#   begun (a busy machine, some MB of offsets), the first's end is taken for the second's, and the groups of that
#   partition are served half-loaded, or not at all until the broker is started again. Stopped in order it has no
#   leadership to lose, and that cannot happen: it is the way to start such a broker again.
# Source: org.apache.kafka.coordinator.common.runtime.CoordinatorRuntime, scheduleLoadOperation and
#   scheduleUnloadOperation; the log's lines are theirs.
# Seen:
#   as before: loads of a group's partition after a kill: 2
#   as before: loads of a group's partition after a stop: 1
#   as before: loads of a group's partition after another kill: 2
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

kafka_install 4.2.1 aiokafka==0.14.0
kafka_format
kafka_start
cat >"$WORK/commit.py" <<'PY'
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError


async def main(broker):
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("t", 1, 1)])
    except TopicAlreadyExistsError:
        pass
    await admin.close()
    consumer = AIOKafkaConsumer("t", bootstrap_servers=broker, group_id="g")
    await consumer.start()
    await consumer.commit({TopicPartition("t", 0): 0})
    await consumer.stop()


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 60))
PY

# use_group: let a member join and commit, as the group's coordinator allows once it has loaded.
use_group() {
    "$PYTHON" "$WORK/commit.py" "$BOOTSTRAP" >"$WORK/commit.log" 2>&1 || { cat "$WORK/commit.log"; exit 1; }
}

# loads SIGNAL: end the broker so, start it and use the group; print how often it then loaded the group's partition.
loads() {
    local before
    kill -s "$1" "$BROKER"
    { wait "$BROKER" || true; } 2>/dev/null  # where bash says "Killed"
    before=$(wc -c <"$WORK/broker.log")
    kafka_start
    use_group
    LOADS=$(tail -c "+$((before + 1))" "$WORK/broker.log" | grep -c "Scheduling loading of metadata from $PARTITION ")
}

use_group
PARTITION=$("$PYTHON" -c '
code = 0
for letter in "g":
    code = 31 * code + ord(letter)
print(f"__consumer_offsets-{code % 4}")')
loads KILL
expect 'loads of a group'"'"'s partition after a kill' 2 "$LOADS"
loads TERM
expect 'loads of a group'"'"'s partition after a stop' 1 "$LOADS"
loads KILL
expect 'loads of a group'"'"'s partition after another kill' 2 "$LOADS"
