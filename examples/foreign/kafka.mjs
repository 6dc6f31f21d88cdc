// Publish tasks on Kafka and print their results, as docs/wire.md tells. No murmur needed.
//
//   node kafka.mjs kafka://localhost:9092 shout '"hello"' '"again"'
import { randomUUID } from 'node:crypto'
import { Kafka, Partitioners, logLevel } from 'kafkajs'

const [url, agent, ...inputs] = process.argv.slice(2)
const prefix = process.env.NAMESPACE ? `${process.env.NAMESPACE}.` : ''
const me = `node-${randomUUID()}`
const topic = `${prefix}inbox`

const brokers = url.split('://')[1].split('?')[0].split(',')
const kafka = new Kafka({ brokers, logLevel: logLevel.NOTHING })
const open = new Map(inputs.map((input) => [randomUUID(), JSON.parse(input)]))
let ended
const done = new Promise((resolve) => (ended = resolve))

// Whoever comes first makes the topics; those that are there stay as they are.
const admin = kafka.admin()
await admin.connect()
const there = await admin.listTopics()
const topics = [
  { topic: `${prefix}${agent}.tasks`, numPartitions: 16, configEntries: [{ name: 'retention.ms', value: '-1' }] },
  { topic, numPartitions: 16, configEntries: [{ name: 'retention.ms', value: '86400000' }] },
]
await admin.createTopics({ topics: topics.filter((one) => !there.includes(one.topic)) })

// Kafkajs reads in groups only: one of our own. A program that stays keeps its name, and goes on where it was.
const consumer = kafka.consumer({ groupId: `${prefix}inbox.${me}` })
await consumer.connect()
await consumer.subscribe({ topic, fromBeginning: true })
await consumer.run({
  eachMessage: async ({ message }) => {
    if (message.key?.toString() !== me) return // another publisher's
    const result = JSON.parse(message.value)
    if (open.delete(result.task_id)) console.log(JSON.stringify(result))
    if (!open.size) ended()
  },
})

const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
await producer.connect()
const messages = [...open].map(([task_id, input]) => ({
  value: JSON.stringify({ v: 1, task_id, agent, input, reply_to: `${prefix}inbox.${me}` }),
  headers: { 'murmur-id': task_id },
}))
await producer.send({ topic: `${prefix}${agent}.tasks`, acks: -1, messages })

await done
await Promise.all([consumer.disconnect(), producer.disconnect()])
await admin.deleteGroups([`${prefix}inbox.${me}`])
await admin.disconnect()
