// Follows a cluster through one gateway: npm install zeromq@6 @msgpack/msgpack
// Usage: node subscriber.mjs tcp://HOST:PORT SERVER_KEY MY_KEY_FILE [PREFIX]
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"

const load = createRequire(`${process.cwd()}/`)
const { Subscriber, Dealer } = load("zeromq")
const { decode, encode } = load("@msgpack/msgpack")

const [endpoint, serverKey, keyFile, prefix = ""] = process.argv.slice(2)
const key = Object.fromEntries(
  [...readFileSync(keyFile, "utf8").matchAll(/^(\w+) = "(.*)"$/gm)].map(([, name, value]) => [name, value]))
const options = { curveServerKey: serverKey, curvePublicKey: key.public, curveSecretKey: key.secret }
const [, host, port] = endpoint.match(/^(.*):(\d+)$/)
const events = new Subscriber(options)
const questions = new Dealer({ ...options, receiveTimeout: 10_000 })
events.connect(endpoint)
questions.connect(`${host}:${Number(port) + 1}`)
// The second is answered at once, when the first is in force. Control frames begin with the byte FF.
events.subscribe(Buffer.alloc(0), Buffer.from("\xffsync/subscriber", "latin1"))

async function snapshot() {
  await questions.send(encode({ id: 1, op: "snapshot", prefixes: [`*/${prefix}`] }))
  const answers = []
  do {
    const parts = await questions.receive()
    answers.push(decode(parts.at(-1)))
  } while (!answers.at(-1).last)
  return answers
}

let epoch = null, seq = 0, numbers = {}
for await (const [topic, data] of events) {
  const frame = decode(data), control = topic[0] === 0xff
  const stream = control ? frame : frame.via ?? frame.id
  let found = []
  if (stream.epoch !== epoch) { // at the start, after a gap, when the gateway began anew: everything as it is now
    const answers = await snapshot()
    ;({ epoch, seq, counts: numbers } = answers.at(-1))
    found = answers.flatMap((answer) => answer.events.map(([name, packed]) => [name, decode(packed)]))
  } else if (!control && stream.seq > seq) {
    found = [[topic.toString(), frame]]
  }
  for (const [name, event] of found) {
    if (!name.slice(name.indexOf("/") + 1).startsWith(prefix)) continue
    const missed = Math.max(0, event.n - (numbers[name] ?? event.n - 1) - 1)
    numbers[name] = Math.max(numbers[name] ?? 0, event.n)
    if (missed) epoch = null
    console.log(JSON.stringify({ topic: name, type: event.type, body: event.body, missed }))
  }
}
