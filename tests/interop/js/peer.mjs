// A js-libp2p peer on loopback. Commands come as JSON lines on standard input and are answered as
// JSON lines on standard output; the first line tells where the peer listens.

if (Promise.withResolvers === undefined) {
  // Node 20 lacks it, the libraries use it.
  Promise.withResolvers = function () {
    const result = {}
    result.promise = new Promise((resolve, reject) => Object.assign(result, { resolve, reject }))
    return result
  }
}

const { createHash } = await import('node:crypto')
const { createInterface } = await import('node:readline')
const { setTimeout: delay } = await import('node:timers/promises')
const { noise } = await import('@chainsafe/libp2p-noise')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { identify } = await import('@libp2p/identify')
const { kadDHT, passthroughMapper } = await import('@libp2p/kad-dht')
const { ping } = await import('@libp2p/ping')
const { tcp } = await import('@libp2p/tcp')
const { multiaddr } = await import('@multiformats/multiaddr')
const { createLibp2p } = await import('libp2p')

const JSON_MESSAGE = '/json-message/1.0'
const ECHO = '/conformance-echo/1'
const SINK = '/conformance-sink/1'
const text = new TextEncoder()

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    // Its connection monitor and its routing table ping as well, each on a stream of its own.
    ping: ping({ maxOutboundStreams: 8 }),
    dht: kadDHT({
      protocol: '/ipfs/kad/1.0.0',
      peerInfoMapper: passthroughMapper,
      clientMode: false,
      validators: { 'llama-cluster': async () => {} },
      selectors: { 'llama-cluster': (key, values) => values.length - 1 }
    })
  }
})

const bytesOf = (chunk) => (chunk instanceof Uint8Array ? chunk : chunk.subarray())

async function send (stream, data) {
  for (let start = 0; start < data.length; start += 262144) {
    if (!stream.send(data.subarray(start, start + 262144))) {
      await new Promise((resolve) => stream.addEventListener('drain', resolve, { once: true }))
    }
  }
}

async function readAll (stream) {
  const parts = []
  for await (const chunk of stream) parts.push(bytesOf(chunk))
  return Buffer.concat(parts)
}

await node.handle(JSON_MESSAGE, async (stream, connection) => {
  const request = JSON.parse((await readAll(stream)).toString())
  await send(stream, text.encode(JSON.stringify({ from: connection.remotePeer.toString(), got: request })))
  await stream.close()
}, { runOnLimitedConnection: true })

await node.handle(ECHO, async (stream) => {
  for await (const chunk of stream) await send(stream, bytesOf(chunk))
  await stream.close()
})

await node.handle(SINK, async (stream) => {
  const data = await readAll(stream)
  await send(stream, text.encode(createHash('sha256').update(data).digest('hex')))
  await stream.close()
})

const open = (command, protocol) => node.dialProtocol(multiaddr(command.address), protocol)

const commands = {
  async ping ({ address }) {
    return { ms: await node.services.ping.ping(multiaddr(address)) }
  },
  async identify ({ address }) {
    const found = await node.services.identify.identify(await node.dial(multiaddr(address)))
    return { peer: found.peerId.toString(), protocols: found.protocols, agent: found.agentVersion }
  },
  async connection ({ address }) {
    const connection = await node.dial(multiaddr(address))
    return { encryption: connection.encryption, multiplexer: connection.multiplexer }
  },
  async json (command) {
    const stream = await open(command, JSON_MESSAGE)
    await send(stream, text.encode(JSON.stringify(command.body)))
    await stream.close()
    return JSON.parse((await readAll(stream)).toString())
  },
  async sink (command) {
    const stream = await open(command, SINK)
    const data = Buffer.alloc(command.bytes, 'a peer in another language ')
    await send(stream, data)
    await stream.close()
    const answer = (await readAll(stream)).toString()
    return { sent: createHash('sha256').update(data).digest('hex'), answer }
  },
  async put ({ key, value }) {
    const events = []
    for await (const event of node.services.dht.put(text.encode(key), text.encode(value))) {
      events.push(event.name)
    }
    return { events }
  },
  async get ({ key }) {
    const values = []
    for await (const event of node.services.dht.get(text.encode(key))) {
      if (event.name === 'VALUE') values.push(Buffer.from(event.value).toString())
    }
    return { values }
  },
  async routing ({ address }) {
    await node.dial(multiaddr(address))
    while (node.services.dht.routingTable.size === 0) await delay(20)
    return { size: node.services.dht.routingTable.size }
  }
}

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')

say({ peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  try {
    say(await commands[command.do](command))
  } catch (error) {
    say({ error: `${error.name}: ${error.message}` })
  }
}
await node.stop()
process.exit(0)
