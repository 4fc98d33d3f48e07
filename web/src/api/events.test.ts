import { describe, expect, it } from 'vitest'
import { connectEvents, type Connection, type Socketlike } from './events'
import type { Notice } from './types'

class FakeSocket implements Socketlike {
  sent: unknown[] = []
  closed = false
  onopen: (() => void) | null = null
  onmessage: ((e: { data: unknown }) => void) | null = null
  onclose: ((e: { code: number; reason: string }) => void) | null = null
  send(text: string) {
    this.sent.push(JSON.parse(text))
  }
  close() {
    this.closed = true
  }
  say(message: unknown) {
    this.onmessage?.({ data: JSON.stringify(message) })
  }
}

function rig(ticket: () => Promise<string> = async () => 't') {
  const sockets: FakeSocket[] = []
  const timers: { ms: number; f: () => void }[] = []
  const seen = { connections: [] as Connection[], notices: [] as Notice[], stale: 0 }
  const events = connectEvents({
    ticket,
    open() {
      const socket = new FakeSocket()
      sockets.push(socket)
      return socket
    },
    isRefusal: (e) => e === 401,
    words: (e) => `words for ${e}`,
    onNotice: (n) => seen.notices.push(n),
    onStale: () => (seen.stale += 1),
    onConnection: (c) => seen.connections.push(c),
    now: () => 1_000,
    random: () => 1,
    later(ms, f) {
      const timer = { ms, f }
      timers.push(timer)
      return () => timers.splice(timers.indexOf(timer), 1)
    },
  })
  return { sockets, timers, seen, events, last: () => seen.connections.at(-1) }
}

const settled = () => new Promise((done) => setTimeout(done, 0))
const published = (seq: number) => ({ type: 'notice', seq, event: 'record.published', record_seq: 1, stored: 2 })

describe('the event socket', () => {
  it('says its ticket, is live after the greeting and loads everything once', async () => {
    const r = rig()
    await settled()
    r.sockets[0]!.onopen?.()
    expect(r.sockets[0]!.sent).toEqual([{ ticket: 't' }])
    r.sockets[0]!.say({ type: 'hello', epoch: 'a', next: 5 })
    expect(r.last()).toEqual({ state: 'live' })
    expect(r.seen.stale).toBe(1)
  })

  it('resumes after the last notice it saw, and loads nothing anew when nothing was missed', async () => {
    const r = rig()
    await settled()
    r.sockets[0]!.say({ type: 'hello', epoch: 'a', next: 5 })
    r.sockets[0]!.say(published(5))
    r.sockets[0]!.onclose?.({ code: 1006, reason: '' })
    expect(r.last()).toEqual({ state: 'lost', why: 'The connection to the node broke.', retryAt: 1_500 })
    r.timers[0]!.f()
    await settled()
    r.sockets[1]!.onopen?.()
    expect(r.sockets[1]!.sent).toEqual([{ ticket: 't', resume: { epoch: 'a', after: 5 } }])
    r.sockets[1]!.say({ type: 'hello', epoch: 'a', next: 6 })
    expect(r.seen.stale).toBe(1)
    expect(r.seen.notices).toHaveLength(1)
  })

  it('loads everything anew after a gap or a restart of the node', async () => {
    const r = rig()
    await settled()
    r.sockets[0]!.say({ type: 'hello', epoch: 'a', next: 5 })
    r.sockets[0]!.say({ type: 'gap', from: 5, to: 9 })
    expect(r.seen.stale).toBe(2)
    r.sockets[0]!.onclose?.({ code: 1001, reason: '' })
    r.timers[0]!.f()
    await settled()
    r.sockets[1]!.onopen?.()
    expect(r.sockets[1]!.sent).toEqual([{ ticket: 't', resume: { epoch: 'a', after: 9 } }])
    r.sockets[1]!.say({ type: 'hello', epoch: 'b', next: 1 })
    r.sockets[1]!.say({ type: 'gap', from: 1, to: 0 })
    expect(r.seen.stale).toBe(3)
  })

  it('waits longer after each failure, up to half a minute', async () => {
    const r = rig(async () => {
      throw 'no network'
    })
    const waits: number[] = []
    for (let i = 0; i < 9; i++) {
      await settled()
      const timer = r.timers.shift()!
      waits.push(timer.ms)
      timer.f()
    }
    expect(waits).toEqual([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000])
    expect(r.seen.connections).toContainEqual({ state: 'lost', why: 'words for no network', retryAt: 1_500 })
  })

  it('does not retry when the session has ended', async () => {
    const r = rig(async () => {
      throw 401
    })
    await settled()
    expect(r.last()).toEqual({ state: 'refused', why: 'words for 401' })
    expect(r.timers).toHaveLength(0)
  })

  it('is silent after it was stopped', async () => {
    const r = rig()
    await settled()
    r.events.stop()
    r.sockets[0]!.onclose?.({ code: 1006, reason: '' })
    expect(r.sockets[0]!.closed).toBe(true)
    expect(r.timers).toHaveLength(0)
  })
})
