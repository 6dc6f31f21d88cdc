// Publish tasks on NATS and print their results, as docs/wire.md tells. No murmur needed.
//
//   node nats.mjs nats://localhost:4222 shout '"hello"' '"again"'
import { randomUUID } from 'node:crypto'
import { connect } from 'nats'

const [url, agent, ...inputs] = process.argv.slice(2)
const prefix = process.env.NAMESPACE ? `${process.env.NAMESPACE}.` : ''
const inbox = `${prefix}inbox.node-${randomUUID()}`

const { hostname, port, username, password } = new URL(url)
const client = await connect({
  servers: `${hostname}:${port || 4222}`,
  user: decodeURIComponent(username) || undefined,
  pass: decodeURIComponent(password) || undefined,
})
const results = client.subscribe(inbox)
await client.flush() // before a result can come

const open = new Set()
for (const input of inputs) {
  const task_id = randomUUID()
  open.add(task_id)
  const task = { v: 1, task_id, agent, input: JSON.parse(input), reply_to: inbox }
  // By JetStream, which answers when the task is kept; a plain publish is heard by nobody where the stream is missing.
  await client.jetstream().publish(`${prefix}${agent}.tasks`, JSON.stringify(task), { msgID: task_id })
}

for await (const message of results) {
  const result = message.json()
  if (open.delete(result.task_id)) console.log(JSON.stringify(result))
  if (!open.size) break
}
await client.close()
