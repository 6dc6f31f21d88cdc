// Publish tasks on Redis and print their results, as docs/wire.md tells. No murmur needed.
//
//   node redis.mjs redis://localhost:6379 shout '"hello"' '"again"'
import { randomUUID } from 'node:crypto'
import { createClient } from 'redis'

const [url, agent, ...inputs] = process.argv.slice(2)
const prefix = process.env.NAMESPACE ? `${process.env.NAMESPACE}.` : ''
const inbox = `${prefix}inbox.node-${randomUUID()}`

const client = await createClient({ url }).connect()
const open = new Set()
for (const input of inputs) {
  const task_id = randomUUID()
  open.add(task_id)
  const task = { v: 1, task_id, agent, input: JSON.parse(input), reply_to: inbox }
  await client.xAdd(`${prefix}${agent}.tasks`, '*', { d: JSON.stringify(task), i: task_id })
}

let last = '0'
while (open.size) {
  const streams = await client.sendCommand(['XREAD', 'BLOCK', '5000', 'STREAMS', inbox, last])
  for (const [id, fields] of streams?.[0][1] ?? []) {
    last = id
    // An entry holds one or more fields `r`, which an object of the client would merge into one.
    for (let at = 1; at < fields.length; at += 2) {
      const result = JSON.parse(fields[at])
      if (open.delete(result.task_id)) console.log(JSON.stringify(result))
    }
  }
}
await client.del(inbox)
await client.close()
