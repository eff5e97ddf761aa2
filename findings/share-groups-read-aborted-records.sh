#!/usr/bin/env bash
# A share group reads the records of transactions that were aborted, and of ones that are still open, and its consumers
# have no say in it: the group's isolation is a setting on the broker.
#
# Version: Apache Kafka 4.2.1, broker and kafka-console-share-consumer; share groups are on as it ships.
# Behaviour: of three transactions one was committed, one aborted, one is open. A consumer group with
#   isolation.level=read_committed sees the first. A share group sees all three. Told isolation.level, its consumer ends
#   with a ConfigException; what helps is share.isolation.level=read_committed on the group, by `kafka-configs.sh
#   --entity-type groups`, before the first record is read: then it sees the first alone.
# Source: GroupConfig (org.apache.kafka.coordinator.group): SHARE_ISOLATION_LEVEL_DEFAULT is read_uncommitted;
#   clients, ShareConsumerConfig, line 51 of the stack: the list of settings that it refuses has isolation.level in it.
# Seen:
#   as before: a consumer group, read_committed: committed
#   as before: a share group: committed aborted open
#   as before: a share group with share.isolation.level=read_committed: committed
#   as before: a share consumer with isolation.level=read_committed: isolation.level cannot be set when using a share group.
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

kafka_install 4.2.1 aiokafka==0.14.0
kafka_format
kafka_start
cat >"$WORK/produce.py" <<'PY'
import asyncio
import sys

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def main(broker):
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic("t", 1, 1)])
    await admin.close()
    for number, word in enumerate(("committed", "aborted", "open")):
        producer = AIOKafkaProducer(
            bootstrap_servers=broker, transactional_id=f"producer-{number}", transaction_timeout_ms=600_000)
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait("t", word.encode())
        if word == "committed":
            await producer.commit_transaction()
        elif word == "aborted":
            await producer.abort_transaction()
        await producer.client.close()  # the last as a producer that has died: stop() would abort


asyncio.run(main(sys.argv[1]))
PY
"$PYTHON" "$WORK/produce.py" "$BOOTSTRAP" 2>"$WORK/produce.log"

# set_group GROUP NAME=VALUE,...
set_group() {
    kafka_class kafka.admin.ConfigCommand --bootstrap-server "$BOOTSTRAP" --alter \
        --entity-type groups --entity-name "$1" --add-config "$2" >"$WORK/config.log" 2>&1
}

# read_with CLASS ARGUMENTS ...: what a console consumer prints until nothing has come for 10 s, on one line.
read_with() {
    kafka_class "org.apache.kafka.tools.consumer.$1" --bootstrap-server "$BOOTSTRAP" --topic t --timeout-ms 10000 \
        "${@:2}" 2>"$WORK/consumer.log" | paste -s -d ' ' || true
}

set_group as-it-comes share.auto.offset.reset=earliest
set_group committed-only share.auto.offset.reset=earliest,share.isolation.level=read_committed
expect 'a consumer group, read_committed' 'committed' \
    "$(read_with ConsoleConsumer --from-beginning --command-property isolation.level=read_committed)"
expect 'a share group' 'committed aborted open' \
    "$(read_with ConsoleShareConsumer --group as-it-comes --max-messages 3)"
expect 'a share group with share.isolation.level=read_committed' 'committed' \
    "$(read_with ConsoleShareConsumer --group committed-only)"
read_with ConsoleShareConsumer --group as-it-comes --command-property isolation.level=read_committed >"$WORK/nothing"
expect 'a share consumer with isolation.level=read_committed' 'isolation.level cannot be set when using a share group.' \
    "$(sed -n 's/^.*ConfigException: //p' "$WORK/consumer.log" | head -1)"
