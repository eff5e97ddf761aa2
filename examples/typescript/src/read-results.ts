// Acts on each answer to a send request once: node dist/read-results.js [GROUP].
//
// Prints a JSON line for each; ends by SIGTERM.

import { Kafka, logLevel } from 'kafkajs'
import type { SendDecided } from './generated/inmail.send.decided.v1.js'

const brokers = (process.env.KAFKA_BOOTSTRAP_SERVERS ?? 'localhost:9092').split(',')
const REMEMBERED = 100_000

/**
 * Ids of events that were acted on.
 *
 * A service keeps them where it keeps what it does, as a unique column of the same transaction: memory forgets at a
 * restart, and the records since the last commit come again.
 */
class Seen {
  readonly #ids = new Set<string>() // in the order of their arrival

  has (id: string): boolean {
    return this.#ids.has(id)
  }

  /** Remembers an id, and forgets the oldest where there are too many. */
  add (id: string): void {
    this.#ids.add(id)
    if (this.#ids.size > REMEMBERED) {
      this.#ids.delete(this.#ids.values().next().value as string)
    }
  }
}

/** Does what an answer says. Members and codes that are not known are no error: `outcome` decides. */
function act ({ subject, data }: SendDecided): void {
  let action = data.outcome === 'accepted' ? 'deliver' : 'refuse'
  if (data.code === 'balance_not_current') {
    action = 'wait' // not final: whoever asked sends the request again, see send-inmail.ts
  } else if (data.code === 'key_conflict') {
    // Another body under an id that has its answer, which stands: its message may have been delivered. Whoever sent the
    // other body has to be told.
    action = 'ignore'
  }
  console.log(JSON.stringify({ action, account: subject, request_id: data.request_id, code: data.code }))
}

const kafka = new Kafka({ brokers, logLevel: logLevel.ERROR })
// kafkajs leaves out what aborted transactions wrote, unless `readUncommitted` is set.
const consumer = kafka.consumer({ groupId: process.argv[2] ?? 'delivery-example' })
const seen = new Seen()
await consumer.connect()
await consumer.subscribe({ topic: 'inmail.send-results', fromBeginning: true })
// kafkajs commits the offset of a message after its handler, and when it stops: a crash repeats, and loses nothing.
// Where the handler fails, kafkajs catches the error and brings the message again, to the same `seen`.
await consumer.run({
  eachMessage: async ({ message }) => {
    const event = JSON.parse(message.value?.toString() ?? '{}') as SendDecided
    // The first answer again (`repeat`), or a record read twice, has the id of the first.
    if (event.type === 'inmail.send.decided.v1' && !seen.has(event.id)) {
      act(event)
      seen.add(event.id) // after the work: known before it, an answer whose work fails once would be dropped
    }
  }
})
process.once('SIGTERM', () => { void consumer.disconnect() })
