#!/usr/bin/env bash
# CloudEvents' SDK for JavaScript does not read what the Kafka client for JavaScript delivers, nor does the client send
# what the SDK makes in binary mode; and a structured event without a content-type header is none to it, while the SDK
# for Python reads it.
#
# Version: cloudevents 10.0.0 (npm) and kafkajs 2.2.4, beside cloudevents 2.2.0 (PyPI). Records go through kafkajs's own
#   encoder and decoder, without a broker.
# Behaviour: kafkajs delivers the values of headers as Buffers, the SDK calls startsWith on them: a TypeError, in both
#   modes. Worst is a binary record without content-type: it is an "event" whose id, source and type are Buffers.
#   In binary mode the SDK leaves `value` the object that the data is, and gives headers that are undefined: kafkajs
#   refuses to encode either. A header that is named Content-Type is recognised by isEvent() and refused by toEvent(). What works: headers made strings first, and a
#   content-type header on each structured record; the Python SDK takes a record without "ce_" headers for structured.
# Source: dist/message/kafka/index.js: isKafkaEvent, parseBinary, parseStructured (which reads the headers as they came,
#   not the ones that were put in lower case), toBinaryKafkaMessage. Python: cloudevents/core/bindings/kafka.py, from_kafka.
# Seen: the lines at the end, exactly.
. "$(dirname "$0")/lib/workspace.sh"

python_packages cloudevents==2.2.0
npm_packages cloudevents@10.0.0 kafkajs@2.2.4

cat >meet.js <<'JS'
import { writeFileSync } from 'node:fs'
import { CloudEvent, Kafka } from 'cloudevents'
import Decoder from 'kafkajs/src/protocol/decoder.js'
import encodeRecord from 'kafkajs/src/protocol/recordBatch/record/v0/index.js'
import decodeRecord from 'kafkajs/src/protocol/recordBatch/record/v0/decoder.js'

function deliver ({ key, value, headers }) {
  const decoder = new Decoder(encodeRecord({ key, value, headers }).buffer)
  decoder.readVarInt() // the length
  return decodeRecord(decoder, { firstOffset: 0, firstTimestamp: 0, magicByte: 2 })
}

function told (ask) {
  try {
    return String(ask())
  } catch (error) {
    return `${error.name}: ${error.message}`
  }
}

const asStrings = record =>
  ({ ...record, headers: Object.fromEntries(Object.entries(record.headers).map(([k, v]) => [k, v.toString()])) })
const say = (what, ask) => console.log(`${what}: ${told(ask)}`)

const event = new CloudEvent({
  id: 'id-1', source: '/s', type: 't', time: '2026-01-31T09:30:00Z', datacontenttype: 'application/json', data: { n: 1 }
})
const structured = Kafka.structured(event)
const delivered = deliver(structured)
say('structured, as delivered', () => Kafka.isEvent(delivered))
say('structured, headers as strings', () => Kafka.toEvent(asStrings(delivered)).id)
say('structured, no content-type', () => Kafka.toEvent(deliver({ ...structured, headers: {} })).id)
const capital = asStrings(deliver({ ...structured, headers: { 'Content-Type': 'application/cloudevents+json' } }))
say('structured, Content-Type, isEvent', () => Kafka.isEvent(capital))
say('structured, Content-Type, toEvent', () => Kafka.toEvent(capital).id)

say('binary, as the SDK makes it', () => deliver(Kafka.binary(event)))
const headers = { ce_id: 'id-1', ce_source: '/s', ce_type: 't', ce_specversion: '1.0' }
const binary = { value: JSON.stringify(event.data), headers: { ...headers, 'content-type': 'application/json' } }
say('binary, its value as text', () => deliver({ ...Kafka.binary(event), value: JSON.stringify(event.data) }))
say('binary, as delivered', () => Kafka.toEvent(deliver(binary)).id)
say('binary, headers as strings', () => Kafka.toEvent(asStrings(deliver(binary))).id)
say('binary, no content-type, the id is a Buffer', () =>
  Buffer.isBuffer(Kafka.toEvent(deliver({ ...binary, headers })).id))
writeFileSync('value.json', structured.value)
JS
cat >read.py <<'PY'
from pathlib import Path

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka
from cloudevents.core.formats.json import JSONFormat

message = KafkaMessage(headers={}, key=None, value=Path("value.json").read_bytes())
print("Python, structured, no content-type:", from_kafka(message, JSONFormat()).get_id())
PY
node meet.js >seen
"$PYTHON" read.py >>seen
expect_output seen <<'SEEN'
structured, as delivered: TypeError: headers[__1.CONSTANTS.HEADER_CONTENT_TYPE]?.startsWith is not a function
structured, headers as strings: id-1
structured, no content-type: TypeError: No CloudEvent detected
structured, Content-Type, isEvent: true
structured, Content-Type, toEvent: TypeError: Unsupported event encoding undefined
binary, as the SDK makes it: TypeError: The "string" argument must be of type string or an instance of Buffer or ArrayBuffer. Received an instance of Object
binary, its value as text: TypeError: The "string" argument must be of type string or an instance of Buffer or ArrayBuffer. Received undefined
binary, as delivered: TypeError: contentType.startsWith is not a function
binary, headers as strings: id-1
binary, no content-type, the id is a Buffer: true
Python, structured, no content-type: id-1
SEEN
