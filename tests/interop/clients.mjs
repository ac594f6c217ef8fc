// npm's ssh2 and ssh2-sftp-client: `node clients.mjs CASE '{"port":…,"username":…,"key":…,…}'`; ends with 0 when its claims hold.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(process.env.BERTH_INTEROP_WORK + '/node/')
const { Client } = require('ssh2')
const SftpClient = require('ssh2-sftp-client')

const [, , name, text] = process.argv
const to = JSON.parse(text)
const login = { host: to.address, port: to.port, username: to.username, privateKey: readFileSync(to.key) }
const blob = randomBytes(8 << 20)
const sum = (b) => createHash('sha256').update(b).digest('hex')

const connect = (more = {}) => new Promise((resolve, reject) => {
  const c = new Client()
  c.on('ready', () => resolve(c)).on('error', reject).connect({ ...login, ...more })
})
const asked = (object, verb, ...args) => new Promise((resolve, reject) =>
  object[verb](...args, (err, result) => err ? reject(err) : resolve(result)))
const all = (stream) => new Promise((resolve, reject) => {
  const parts = []
  stream.on('data', (b) => parts.push(b)).on('end', () => resolve(Buffer.concat(parts))).on('error', reject)
})

// What a command says and how it ends; `close` comes when all has.
function ended (stream) {
  const out = [], err = []
  let exit
  stream.on('data', (b) => out.push(b))
  stream.stderr.on('data', (b) => err.push(b))
  stream.on('exit', (code, signal) => { exit = [code, signal] })
  return new Promise((resolve) => stream.on('close', () => resolve({ out: Buffer.concat(out), err: Buffer.concat(err), exit })))
}
async function run (c, command, input, options = {}) {
  const stream = await asked(c, 'exec', command, options)
  stream.end(input)
  return ended(stream)
}
const line = (stream) => new Promise((resolve) => {
  let seen = ''
  stream.on('data', function more (b) {
    seen += b
    if (seen.includes('\n')) { stream.off('data', more); resolve(seen.trim()) }
  })
})

const cases = {
  async streams () {
    const c = await connect()
    const r = await run(c, 'tee copy; cat copy >&2; exit 5', blob)
    assert.deepEqual([sum(r.out), sum(r.err), r.exit], [sum(blob), sum(blob), [5, undefined]])
    c.end()
  },
  async signal () {
    const c = await connect()
    const stream = await asked(c, 'exec', "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.1; done")
    const done = ended(stream)
    await line(stream)
    stream.signal('TERM')
    const r = await done
    assert.deepEqual([r.out.toString(), r.exit[0]], ['ready\ngot\n', 9])
    const killed = await run(c, 'kill -KILL $$')
    assert.equal(killed.exit[1], 'SIGKILL')
    c.end()
  },
  async terminal () {
    const c = await connect()
    const stream = await asked(c, 'exec', 'stty -echo; stty size; echo $TERM $LC_X; while read x; do stty size; done',
      { pty: { rows: 33, cols: 77, term: 'vt220' }, env: { LC_X: 'value' } })
    let seen = ''
    stream.on('data', (b) => { seen += b })
    const until = async (t) => { while (!seen.includes(t)) await new Promise((resolve) => stream.once('data', resolve)) }
    await until('33 77\r\nvt220 value\r\n')
    for (let i = 0; i < 300; i++) stream.setWindow(20 + i % 30, 60 + i % 50, 0, 0)
    stream.setWindow(55, 111, 0, 0)
    stream.write('\n')
    await until('55 111\r\n')
    stream.end('\x04')
    await new Promise((resolve) => stream.on('close', resolve))
    c.end()
  },
  async shell () {
    const c = await connect()
    const stream = await asked(c, 'shell', false)
    const done = ended(stream)
    for (let i = 0; i < 200; i++) {
      const answer = line(stream)
      stream.write(`echo answer-${i}\n`)
      assert.equal(await answer, `answer-${i}`)
    }
    stream.end('exit 4\n')
    assert.equal((await done).exit[0], 4)
    c.end()
  },
  async channels () {
    const c = await connect()
    const streams = await Promise.all([...Array(200).keys()].map((i) => asked(c, 'exec', `read x; echo $x-${i}`)))
    const done = streams.map(ended)
    streams.forEach((s, i) => s.end(`${i}\n`))
    assert.deepEqual((await Promise.all(done)).map((r) => r.out.toString()), streams.map((_, i) => `${i}-${i}\n`))
    c.end()
  },
  async rekey () {
    const c = await connect()
    const stream = await asked(c, 'exec', 'cat')
    const done = ended(stream)
    for (let i = 0; i < 8; i++) {
      await new Promise((resolve) => stream.write(blob, resolve))
      const again = new Promise((resolve) => c.once('handshake', resolve))
      c._protocol.rekey() // its public face has none
      await again
    }
    stream.end()
    assert.equal(sum((await done).out), sum(Buffer.concat(Array(8).fill(blob))))
    c.end()
  },
  async keepalive () {
    const c = await connect({ keepaliveInterval: 500, keepaliveCountMax: 2 })
    assert.equal((await run(c, 'sleep 5; echo awake')).out.toString(), 'awake\n')
    c.end()
  },
  async forwards () {
    const c = await connect()
    const there = await asked(c, 'forwardOut', '127.0.0.1', 1, '127.0.0.1', to.echo)
    const back = all(there)
    there.end(blob)
    assert.equal(sum(await back), sum(blob))
    await assert.rejects(asked(c, 'forwardOut', '127.0.0.1', 1, '127.0.0.1', 1))
    c.on('tcp connection', async (_, accept) => { const s = accept(); s.end(await all(s)) })
    const port = await asked(c, 'forwardIn', '127.0.0.1', 0)
    const code = `import socket; s = socket.create_connection(("127.0.0.1", ${port})); s.sendall(b"hello"); s.shutdown(1); print(s.recv(100).decode())`
    assert.equal((await run(c, `python3 -c '${code}'`)).out.toString(), 'hello\n')
    await asked(c, 'unforwardIn', '127.0.0.1', port)
    c.end()
  },
  async jump () { // as another connection's `sock` would use it
    const c = await connect()
    const sock = await asked(c, 'forwardOut', '127.0.0.1', 1, '127.0.0.1', to.echo)
    sock.write('x')
    assert.equal((await new Promise((resolve) => sock.once('data', resolve))).toString(), 'x')
    c.end()
  },
  async sftp () {
    const c = await connect()
    const s = await asked(c, 'sftp')
    writeFileSync(to.here + '/f', blob)
    await asked(s, 'fastPut', to.here + '/f', 'there')
    await asked(s, 'fastGet', 'there', to.here + '/g')
    assert.equal(sum(readFileSync(to.here + '/g')), sum(blob))
    await asked(s, 'rename', 'there', 'moved')
    assert.deepEqual((await asked(s, 'readdir', '.')).map((e) => e.filename), ['moved'])
    const reader = s.createReadStream('moved')
    const closed = new Promise((resolve) => reader.on('close', resolve))
    assert.equal(sum(await all(reader)), sum(blob))
    await closed
    c.end()
  },
  async sftpClient () {
    const s = new SftpClient()
    await s.connect(login)
    await s.put(blob, 'there')
    assert.equal(sum(await s.get('there')), sum(blob))
    await s.append(Buffer.from('more'), 'there')
    await s.mkdir('a/b/c', true)
    await s.rename('there', 'a/b/c/moved')
    assert.equal((await s.stat('a/b/c/moved')).size, blob.length + 4)
    await s.uploadDir(to.tree, 'tree')
    await s.downloadDir('tree', to.here + '/back')
    assert.equal(await s.exists('a/b/c/moved'), '-')
    await s.rmdir('a', true)
    assert.deepEqual((await s.list('.')).map((e) => e.name), ['tree'])
    await s.end()
  },
  async key () {
    const c = await connect()
    assert.equal((await run(c, 'echo in')).out.toString(), 'in\n')
    c.end()
  }
}
await cases[name]()
