// Publish tasks on RabbitMQ and print their results, as docs/wire.md tells. No murmur needed.
//
//   node rabbitmq.mjs amqp://localhost:5672 shout '"hello"' '"again"'
import { randomUUID } from 'node:crypto'
import { connect } from 'amqplib'

const [url, agent, ...inputs] = process.argv.slice(2)
const prefix = process.env.NAMESPACE ? `${process.env.NAMESPACE}.` : ''
const inbox = `${prefix}inbox.node-${randomUUID()}`

const connection = await connect(url)
const channel = await connection.createConfirmChannel()
const queue = { 'x-queue-type': 'quorum', 'x-delivery-limit': 1000000 }
await channel.assertQueue(inbox, { durable: true, arguments: { ...queue, 'x-expires': 3600000 } })
await channel.assertQueue(`${prefix}${agent}.tasks`, {
  durable: true,
  arguments: { ...queue, 'x-consumer-timeout': 31536000000 },
})

const open = new Map(inputs.map((input) => [randomUUID(), JSON.parse(input)]))
let ended
const done = new Promise((resolve) => (ended = resolve))
const { consumerTag } = await channel.consume(inbox, (message) => {
  const result = JSON.parse(message.content)
  if (open.delete(result.task_id)) console.log(JSON.stringify(result))
  channel.ack(message)
  if (!open.size) ended()
})

// A message to a queue that does not exist is confirmed all the same, and returned only if it is mandatory.
channel.on('return', ({ fields }) => {
  throw new Error(`RabbitMQ returned a task: ${fields.replyText}`)
})
for (const [task_id, input] of open) {
  const task = { v: 1, task_id, agent, input, reply_to: inbox }
  const properties = { messageId: task_id, contentType: 'application/json', persistent: true, mandatory: true }
  channel.sendToQueue(`${prefix}${agent}.tasks`, Buffer.from(JSON.stringify(task)), properties)
}
await channel.waitForConfirms()

await done
await channel.cancel(consumerTag)
await channel.deleteQueue(inbox)
await connection.close()
