// Asks whether an InMail may be sent, and waits for the final answer: node dist/send-inmail.js ACCOUNT RECIPIENT [ID].
//
// Prints a JSON line for each answer, and before it sends, on standard error, the ID. Run it again with the same ID
// after any failure: the request is decided once.

import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Kafka, logLevel, Partitioners } from 'kafkajs'
import type { SendDecided, SendDecidedData } from './generated/inmail.send.decided.v1.js'
import type { SendRequested } from './generated/inmail.send.requested.v1.js'

const brokers = (process.env.KAFKA_BOOTSTRAP_SERVERS ?? 'localhost:9092').split(',')
const REQUESTS = 'inmail.send-requests'
const RESULTS = 'inmail.send-results'
const SEND_MS = 120_000 // kafkajs goes on trying to deliver what an idempotent producer sends, for ever
const ANSWER_MS = 330_000 // longer than the ledger itself waits for another of its lanes (INMAIL_ORDER_SECONDS: 300)

function makeRequest(account: string, recipient: string, id: string): SendRequested {
  return {
    specversion: '1.0',
    id,
    source: '/examples/typescript',
    type: 'inmail.send.requested.v1',
    subject: account,
    time: new Date().toISOString(),
    datacontenttype: 'application/json',
    data: { recipient_id: recipient, relationship: 'none' }
  }
}

/** Sends a request until its answer is final; prints each answer. */
async function sendInMail(account: string, recipient: string, id: string): Promise<void> {
  const kafka = new Kafka({ brokers, logLevel: logLevel.ERROR })
  // kafkajs' default partitioner is murmur2 of the key, as the ledger expects; its LegacyPartitioner is not.
  const producer = kafka.producer({ idempotent: true, createPartitioner: Partitioners.DefaultPartitioner })
  const consumer = kafka.consumer({ groupId: `send-inmail-${randomUUID()}` }) // reads committed records by default
  const admin = kafka.admin()
  await Promise.all([producer.connect(), consumer.connect(), admin.connect()])
  try {
    // Where the answers begin has to be known before there can be one.
    const ends = await admin.fetchTopicOffsets(RESULTS)
    const next = new Map(ends.map(({ partition, offset }) => [partition, offset]))
    // Whenever it joins its group, as after a lost session, kafkajs forgets where it was, and nothing is committed.
    consumer.on(consumer.events.GROUP_JOIN, () => {
      for (const [partition, offset] of next) {
        consumer.seek({ topic: RESULTS, partition, offset })
      }
    })
    const answers: SendDecidedData[] = []
    let arrived = (): void => {}
    await consumer.subscribe({ topic: RESULTS })
    await consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        next.set(partition, String(BigInt(message.offset) + 1n))
        const event = JSON.parse(message.value?.toString() ?? '{}') as SendDecided
        if (event.type !== 'inmail.send.decided.v1') {
          return
        }
        if (event.subject === account && event.data.request_id === id) { // they name the request together
          answers.push(event.data)
          arrived()
        }
      }
    })
    const value = JSON.stringify(makeRequest(account, recipient, id))
    const headers = { 'content-type': 'application/cloudevents+json; charset=UTF-8' }
    console.error(`request ${id}`) // whoever sends it again needs it
    for (;;) {
      const sending = producer.send({ topic: REQUESTS, acks: -1, messages: [{ key: account, value, headers }] })
      const sent = await Promise.race([sending.then(() => true), sleep(SEND_MS, false, { ref: false })])
      if (!sent) {
        throw new Error(`Kafka has not confirmed the request, and may have it: send ${id} again`)
      }
      const arrival = new Promise<void>(resolve => { arrived = resolve })
      if (answers.length === 0) {
        await Promise.race([arrival, sleep(ANSWER_MS, undefined, { ref: false })])
      }
      const answer = answers.shift()
      if (answer === undefined) {
        throw new Error(`no answer: send ${id} again, or look for it on inmail.dead-letters`)
      }
      console.log(JSON.stringify(answer))
      if (answer.code !== 'balance_not_current') {
        return
      }
      // Not final, and nothing was charged: the same event again, with the same id, once the ledger has caught up.
      await sleep(Number(process.env.RETRY_SECONDS ?? answer.retry_after_seconds) * 1000)
    }
  } finally {
    await Promise.all([producer.disconnect(), consumer.disconnect(), admin.disconnect()])
  }
}

const [account, recipient, id] = process.argv.slice(2)
if (account === undefined || recipient === undefined) {
  throw new Error('usage: send-inmail ACCOUNT RECIPIENT [ID]')
}
const requestId = (id ?? randomUUID()).toLowerCase()
if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(requestId)) {
  throw new Error('ID: expected a UUID, by which the answer names the request')
}
await sendInMail(account, recipient, requestId)
