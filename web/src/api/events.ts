import type { Notice, ServerMessage } from './types'

/**
 * The event socket: opens, says its ticket, resumes after every loss, and says why it is not live.
 *
 * It keeps the epoch and the number of the last notice. After a loss it asks for what came after; where the node has
 * forgotten that (a gap) or has restarted, `onStale` is called and everything must be loaded anew.
 */

export type Connection =
  | { state: 'connecting' }
  | { state: 'live' }
  | { state: 'lost'; why: string; retryAt: number }
  | { state: 'refused'; why: string }

export interface Socketlike {
  send(text: string): void
  close(): void
  onopen: (() => void) | null
  onmessage: ((e: { data: unknown }) => void) | null
  onclose: ((e: { code: number; reason: string }) => void) | null
}

/** A browser's WebSocket as one of these. */
export function browserSocket(url: string): Socketlike {
  const inner = new WebSocket(url)
  const socket: Socketlike = {
    send: (text) => inner.send(text),
    close: () => inner.close(),
    onopen: null,
    onmessage: null,
    onclose: null,
  }
  inner.onopen = () => socket.onopen?.()
  inner.onmessage = (e) => socket.onmessage?.(e)
  inner.onclose = (e) => socket.onclose?.(e)
  return socket
}

export interface EventDeps {
  ticket(): Promise<string>
  open(): Socketlike
  /** Whether this failure of `ticket` means that the session has ended. */
  isRefusal(e: unknown): boolean
  words(e: unknown): string
  onNotice(notice: Notice): void
  onStale(): void
  onConnection(connection: Connection): void
  now?(): number
  random?(): number
  later?(ms: number, f: () => void): () => void
}

const RETRY_FIRST_MS = 500
const RETRY_MOST_MS = 30_000

/** Words for the reasons that the node gives. */
export function closeWords(code: number, reason: string): string {
  if (code === 1001) return 'The node has stopped or restarts.'
  if (code === 1013) return 'The node has too many open pages.'
  if (code === 4408) return 'This page was too slow to follow.'
  if (code === 1006) return 'The connection to the node broke.'
  return reason === '' ? `The node closed the connection (${code}).` : `The node closed the connection: ${reason}.`
}

export function connectEvents(deps: EventDeps): { stop(): void; retryNow(): void } {
  const now = deps.now ?? Date.now
  const random = deps.random ?? Math.random
  const later =
    deps.later ??
    ((ms, f) => {
      const id = setTimeout(f, ms)
      return () => clearTimeout(id)
    })
  let position: { epoch: string; after: number } | null = null
  let socket: Socketlike | null = null
  let cancelRetry: (() => void) | null = null
  let failures = 0
  let stopped = false

  async function start(): Promise<void> {
    cancelRetry = null
    deps.onConnection({ state: 'connecting' })
    let ticket: string
    try {
      ticket = await deps.ticket()
    } catch (e) {
      if (stopped) return
      if (deps.isRefusal(e)) deps.onConnection({ state: 'refused', why: deps.words(e) })
      else lose(deps.words(e))
      return
    }
    if (!stopped) converse(ticket)
  }

  function converse(ticket: string): void {
    const mine = deps.open()
    socket = mine
    mine.onopen = () => mine.send(JSON.stringify(position === null ? { ticket } : { ticket, resume: position }))
    mine.onmessage = (e) => {
      if (socket === mine && typeof e.data === 'string') hear(JSON.parse(e.data) as ServerMessage)
    }
    mine.onclose = (e) => {
      if (socket !== mine || stopped) return
      socket = null
      lose(closeWords(e.code, e.reason))
    }
  }

  function hear(message: ServerMessage): void {
    switch (message.type) {
      case 'hello': {
        const fresh = position === null
        if (position?.epoch !== message.epoch) position = { epoch: message.epoch, after: message.next - 1 }
        failures = 0
        deps.onConnection({ state: 'live' })
        if (fresh) deps.onStale()
        break
      }
      case 'gap':
        if (position !== null) position = { ...position, after: message.to }
        deps.onStale()
        break
      case 'notice': {
        if (position !== null) position = { ...position, after: message.seq }
        deps.onNotice(message)
        break
      }
    }
  }

  function lose(why: string): void {
    const most = Math.min(RETRY_FIRST_MS * 2 ** failures, RETRY_MOST_MS)
    failures += 1
    const wait = most / 2 + (random() * most) / 2
    deps.onConnection({ state: 'lost', why, retryAt: now() + wait })
    cancelRetry = later(wait, () => void start())
  }

  void start()
  return {
    stop() {
      stopped = true
      cancelRetry?.()
      socket?.close()
    },
    retryNow() {
      if (cancelRetry === null || stopped) return
      cancelRetry()
      void start()
    },
  }
}
