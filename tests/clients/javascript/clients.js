// Sends and reads as a service with each client would: node clients.js CLIENT, asked by JSON on standard input.

import { text } from 'node:stream/consumers'
import {
  compatibilityPartitioner, Consumer, FetchIsolationLevels, MessagesStreamModes, ProduceAcks, Producer,
  stringDeserializers, stringSerializers
} from '@platformatic/kafka'
import kafkajs from 'kafkajs'

// send: a record for each key, rejected unless Kafka has confirmed them all. read: the values of the records up to the
// one that is asked for. With settings a client is set up as the documents say.
const clients = {
  kafkajs: {
    async send ({ servers, topic, keys, value }) {
      const producer = new kafkajs.Kafka({ brokers: [servers], logLevel: kafkajs.logLevel.NOTHING }).producer()
      await producer.connect()
      await producer.send({ topic, messages: keys.map(key => ({ key, value })) })
      await producer.disconnect()
    },

    async read ({ servers, topic, until }) {
      const kafka = new kafkajs.Kafka({ brokers: [servers], logLevel: kafkajs.logLevel.NOTHING })
      const consumer = kafka.consumer({ groupId: `kafkajs-${topic}` })
      const found = []
      await consumer.connect()
      await consumer.subscribe({ topic, fromBeginning: true })
      await new Promise(resolve => consumer.run({
        eachMessage: async ({ message }) => {
          found.push(message.value.toString())
          if (found.includes(until)) resolve()
        }
      }))
      await consumer.disconnect()
      return found
    }
  },

  '@platformatic/kafka': {
    async send ({ servers, topic, keys, value, settings }) {
      const isSet = Object.keys(settings).length > 0
      const producer = new Producer({
        clientId: 'clients',
        bootstrapBrokers: [servers],
        serializers: stringSerializers,
        ...isSet && { partitioner: compatibilityPartitioner }
      })
      const messages = keys.map(key => ({ topic, key, value }))
      await producer.send({ messages, ...isSet && { acks: ProduceAcks.ALL } }) // the constructor ignores acks
      await producer.close()
    },

    async read ({ servers, topic, until, settings }) {
      const isSet = Object.keys(settings).length > 0
      const consumer = new Consumer({
        clientId: 'clients',
        groupId: `platformatic-${topic}-${isSet}`,
        bootstrapBrokers: [servers],
        deserializers: stringDeserializers
      })
      const stream = await consumer.consume({
        topics: [topic],
        mode: MessagesStreamModes.EARLIEST,
        ...isSet && { isolationLevel: FetchIsolationLevels.READ_COMMITTED }
      })
      const found = []
      for await (const { value } of stream) {
        found.push(value)
        if (found.includes(until)) break
      }
      await consumer.close(true)
      return found
    }
  }
}

const asked = JSON.parse(await text(process.stdin))
const done = await clients[process.argv[2]][asked.do](asked)
process.stdout.write(JSON.stringify(done ?? null))
