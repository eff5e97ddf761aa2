#!/usr/bin/env bash
# @platformatic/kafka hashes keys with murmur2 as Java does, and agrees with Java on the partition only where a topic's
# number of partitions is a power of two. A test with 1, 2, 4 or 8 partitions does not show it, 12 partitions do.
#
# Version: @platformatic/kafka 2.12.1 (1.35.0 does the same), beside kafkajs 2.2.4, kafka-python 3.0.12 and aiokafka 0.14.0.
# Behaviour: Java clears the hash's highest bit before it takes the remainder, this client reads the hash as an unsigned
#   number: for half of all keys that is 2^31 more, which is a multiple of powers of two only. Of these 50 keys 23 land
#   elsewhere with 3, 5, 6 or 12 partitions. `compatibilityPartitioner` agrees everywhere.
# Source: dist/clients/producer/partitioners.js, `defaultPartitioner` (">>> 0") and `compatibilityPartitioner`
#   ("& 0x7fffffff"); producer.js, `#performSend` (the remainder). Its docs/producer.md names the second for
#   compatibility and does not say that the default agrees for some topics.
# Seen:
#   as before: of 50 keys elsewhere, by the number of partitions: default 1: 0, 2: 0, 3: 23, 4: 0, 5: 23, 6: 23, 8: 0, 12: 23, 16: 0
#   as before: the same: compatibilityPartitioner 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 8: 0, 12: 0, 16: 0
#   as before: the same: kafkajs 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 8: 0, 12: 0, 16: 0
. "$(dirname "$0")/lib/workspace.sh"

python_packages kafka-python==3.0.12 aiokafka==0.14.0
npm_packages @platformatic/kafka@2.12.1 kafkajs@2.2.4

"$PYTHON" >keys.json <<'PY'
import json

from aiokafka.partitioner import murmur2
from kafka.partitioner.default import murmur2 as kafka_python

keys = [f"account-{number}" for number in range(50)]
hashes = [murmur2(key.encode()) & 0x7FFFFFFF for key in keys]
assert hashes == [kafka_python(key.encode()) & 0x7FFFFFFF for key in keys]
print(json.dumps(dict(zip(keys, hashes))))
PY

cat >compare.js <<'JS'
import { readFileSync } from 'node:fs'
import { compatibilityPartitioner, defaultPartitioner } from '@platformatic/kafka'
import kafkajs from 'kafkajs'

const expected = Object.entries(JSON.parse(readFileSync('keys.json')))
const javaCompatible = kafkajs.Partitioners.DefaultPartitioner()

function elsewhere (partitionOf) {
  return [1, 2, 3, 4, 5, 6, 8, 12, 16].map(count =>
    `${count}: ${expected.filter(([key, hash]) => partitionOf(Buffer.from(key), count) !== hash % count).length}`)
    .join(', ')
}

const partitions = count => Array.from({ length: count }, (_, partitionId) => ({ partitionId, leader: 1 }))
console.log('default', elsewhere((key, count) => defaultPartitioner({}, key) % count))
console.log('compatibilityPartitioner', elsewhere((key, count) => compatibilityPartitioner({}, key) % count))
console.log('kafkajs', elsewhere((key, count) =>
  javaCompatible({ topic: 't', partitionMetadata: partitions(count), message: { key } })))
JS
node compare.js >seen
none='1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 8: 0, 12: 0, 16: 0'
halves='1: 0, 2: 0, 3: 23, 4: 0, 5: 23, 6: 23, 8: 0, 12: 23, 16: 0'
expect 'of 50 keys elsewhere, by the number of partitions' "default $halves" "$(sed -n 1p seen)"
expect 'the same' "compatibilityPartitioner $none" "$(sed -n 2p seen)"
expect 'the same' "kafkajs $none" "$(sed -n 3p seen)"
