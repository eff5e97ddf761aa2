#!/usr/bin/env bash
# A producer of @platformatic/kafka that is made with acks: ProduceAcks.ALL asks the leader alone; what counts is what each
# send() is given.
#
# Version: @platformatic/kafka 1.35.0, the newest for Node 20; Apache Kafka 4.2.1.
# Behaviour: the constructor's options have acks by their type. But send() asks its own options alone, and without acks
#   takes LEADER, unless the producer is idempotent, and then ALL. So records are confirmed that no replica has.
# Source: dist/clients/producer/producer.js, `send`: of the constructor's options `idempotent` is asked, and acks is not.
# Seen: what its own tracing channel says of a send that was confirmed
#   as before: acks of the constructor: LEADER
#   as before: acks of neither: LEADER
#   as before: acks of send: ALL
#   as before: acks of neither, idempotent: ALL
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

kafka_install 4.2.1
kafka_format num.partitions=1
kafka_start
npm_packages @platformatic/kafka@1.35.0
kafka_class org.apache.kafka.tools.TopicCommand --bootstrap-server "$BOOTSTRAP" --create --topic confirmed >topic.log

cat >send.js <<'JS'
import { tracingChannel } from 'node:diagnostics_channel'
import { ProduceAcks, Producer, stringSerializers } from '@platformatic/kafka'

const [broker] = process.argv.slice(2)
const names = Object.fromEntries(Object.entries(ProduceAcks).map(([name, value]) => [value, name]))
let asked
tracingChannel('plt:kafka:producer:sends').subscribe({ start: ({ options }) => { asked = names[options.acks] } })

async function send (what, made, sent) {
  const producer = new Producer({ clientId: 'c', bootstrapBrokers: [broker], serializers: stringSerializers, ...made })
  await producer.send({ messages: [{ topic: 'confirmed', key: 'k', value: 'v' }], ...sent })
  await producer.close()
  console.log(`${what}: ${asked}`)
}

await send('the constructor', { acks: ProduceAcks.ALL }, {})
await send('neither', {}, {})
await send('send', {}, { acks: ProduceAcks.ALL })
await send('neither, idempotent', { idempotent: true }, {})
JS
timeout 120 node send.js "$BOOTSTRAP" >seen
seen_of() { sed -n "s|^$1: ||p" seen; }
expect 'acks of the constructor' LEADER "$(seen_of 'the constructor')"
expect 'acks of neither' LEADER "$(seen_of neither)"
expect 'acks of send' ALL "$(seen_of send)"
expect 'acks of neither, idempotent' ALL "$(seen_of 'neither, idempotent')"
