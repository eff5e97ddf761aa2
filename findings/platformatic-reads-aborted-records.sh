#!/usr/bin/env bash
# @platformatic/kafka with isolationLevel READ_COMMITTED, its default, delivers records of aborted transactions: of all but
# the last that one producer aborted within a fetch, and of one whose end is in a later fetch.
#
# Version: @platformatic/kafka 1.35.0, the newest for Node 20, beside aiokafka 0.14.0 and kafkajs 2.2.4; Apache Kafka
#   4.2.1. 2.12.1, which needs Node 22, has the same lines (read, not run).
# Behaviour: topic "twice": one producer aborts two transactions and commits a third. The other clients read the third
#   alone; this one reads the first as well. Topic "large": an aborted transaction of 20 records of 100 kB and then a
#   committed one, read 300 kB at a time: this one reads the aborted records of each response without the end.
# Source: dist/clients/consumer/consumer.js, `#filterUncommittedMessages`: a Map by producer id keeps one aborted range of
#   each, and a range whose end is not in the same response is ignored "for safety", so its records are delivered. Kafka's
#   clients drop a producer's records from an aborted transaction's first offset until they meet its end.
# Seen:
#   as before: twice, aiokafka: committed
#   as before: large, aiokafka: committed
#   as before: twice, kafkajs: committed
#   as before: large, kafkajs: committed
#   as before: twice, @platformatic/kafka: aborted-1 committed
#   as before: large, @platformatic/kafka: aborted, then committed
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

kafka_install 4.2.1 aiokafka==0.14.0
kafka_format
kafka_start
npm_packages kafkajs@2.2.4 @platformatic/kafka@1.35.0

cat >produce.py <<'PY'
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

FILL = "." * 100_000


async def main(broker):
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic("twice", 1, 1), NewTopic("large", 1, 1)])
    await admin.close()
    for topic, transactions in (
        ("twice", [["aborted-1"], ["aborted-2"], ["committed"]]),
        ("large", [[f"aborted-{number} {FILL}" for number in range(20)], ["committed"]]),
    ):
        async with AIOKafkaProducer(bootstrap_servers=broker, transactional_id=topic) as producer:
            for words in transactions:
                await producer.begin_transaction()
                for word in words:
                    await producer.send_and_wait(topic, word.encode())
                await (producer.commit_transaction() if words == ["committed"] else producer.abort_transaction())
        async with AIOKafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed") as consumer:
            consumer.assign([TopicPartition(topic, 0)])
            await consumer.seek_to_beginning()
            seen = []
            while "committed" not in seen:
                seen.append((await consumer.getone()).value.decode().split()[0])
        print(f"{topic}, aiokafka:", *seen)


asyncio.run(main(sys.argv[1]))
PY
cat >read.js <<'JS'
import { Consumer, FetchIsolationLevels, MessagesStreamModes } from '@platformatic/kafka'
import kafkajs from 'kafkajs'

const [broker] = process.argv.slice(2)
const word = value => value.toString().split(' ')[0]
const kafka = new kafkajs.Kafka({ brokers: [broker], logLevel: kafkajs.logLevel.NOTHING })

for (const topic of ['twice', 'large']) {
  const consumer = kafka.consumer({ groupId: `kafkajs-${topic}`, maxBytesPerPartition: 300_000 })
  const seen = []
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await new Promise(resolve => consumer.run({
    eachMessage: async ({ message }) => { if (seen.push(word(message.value)) && seen.includes('committed')) resolve() }
  }))
  await consumer.disconnect()
  console.log(`${topic}, kafkajs: ${seen.join(' ')}`)
}
for (const topic of ['twice', 'large']) {
  const consumer = new Consumer({ clientId: 'c', groupId: `platformatic-${topic}`, bootstrapBrokers: [broker] })
  const stream = await consumer.consume({
    topics: [topic],
    mode: MessagesStreamModes.EARLIEST,
    isolationLevel: FetchIsolationLevels.READ_COMMITTED,
    maxBytes: 300_000,
    maxWaitTime: 100
  })
  const seen = []
  for await (const message of stream) {
    seen.push(word(message.value))
    if (seen.includes('committed')) break
  }
  await consumer.close(true)
  console.log(`${topic}, @platformatic/kafka: ${seen.join(' ')}`)
}
JS
"$PYTHON" produce.py "$BOOTSTRAP" >seen 2>produce.log
timeout 120 node read.js "$BOOTSTRAP" >>seen
seen_by() { sed -n "s|^$1: ||p" seen; }
for client in aiokafka kafkajs; do
    expect "twice, $client" committed "$(seen_by "twice, $client")"
    expect "large, $client" committed "$(seen_by "large, $client")"
done
expect 'twice, @platformatic/kafka' 'aborted-1 committed' "$(seen_by 'twice, @platformatic/kafka')"
# How many of the 20 depends on where responses end.
expect 'large, @platformatic/kafka' 'aborted, then committed' "$(seen_by 'large, @platformatic/kafka' |
    sed -E 's/^(aborted-[0-9]+ )+committed$/aborted, then committed/')"
