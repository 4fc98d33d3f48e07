import { describe, expect, it, vi } from 'vitest'
import type { Client } from '../api/client'
import type { Peer, Run, Status, Task } from '../api/types'
import { createNetworkStore } from './network'

const peer = (key: string, state: Peer['state'] = 'connected'): Peer => ({
  key,
  peer_id: 'p',
  state,
  since: 0,
  addr: null,
  rtt_us: null,
  bytes_sent: 0,
  bytes_received: 0,
  first_seen: 0,
  last_seen: 0,
  source: 'dht',
  trouble: null,
  services: 0,
})

const task = (id: string, state: Task['state']): Task => ({
  id,
  state,
  why: null,
  since: 0,
  service: 's',
  peer: null,
  job: null,
  attempt: 1,
  exit: null,
  usage: null,
  outputs: [],
  has_receipt: false,
})

const run = (id: string, tasks: Task[] = []): Run => ({
  run: id,
  name: 'n',
  state: 'running',
  terminal: false,
  submitted: 0,
  ended: null,
  why: null,
  tasks,
  results: [{ sink: 'top', n: 0, task: 't', port: 'stdout', digest: 'd1', len: 10, fetched: 0, href: '/' }],
  tasks_committed: 0,
  tasks_total: 1,
})

const status = { connected: 0 } as Status

function store(answers: Record<string, unknown>) {
  const get = vi.fn(async (path: string) => structuredClone(answers[path]))
  const client = { get, post: vi.fn(), delete: vi.fn(), download: vi.fn() } as unknown as Client
  const trouble = vi.fn()
  return { get, trouble, ...createNetworkStore(client, trouble) }
}

const all = {
  '/api/v1/status': status,
  '/api/v1/peers': { peers: [peer('a')] },
  '/api/v1/runs': { runs: [run('r1')] },
  '/api/v1/runs/r1': run('r1', [task('t', 'active')]),
}

describe('the store', () => {
  it('loads everything and keeps the tasks it knows', async () => {
    const s = store(all)
    await s.loadAll()
    await s.loadRun('r1')
    await s.loadAll()
    expect([...s.state.peers.keys()]).toEqual(['a'])
    expect(s.state.runs.get('r1')!.tasks).toHaveLength(1)
  })

  it('applies a notice, and the same notice again, to the same end', async () => {
    const s = store(all)
    await s.loadAll()
    for (let i = 0; i < 2; i++) {
      s.apply({ event: 'peer.changed', peer: peer('b') })
      expect(s.state.peers.size).toBe(2)
      expect(s.state.status!.connected).toBe(2)
    }
    s.apply({ event: 'peer.changed', peer: peer('b', 'closed') })
    expect(s.state.status!.connected).toBe(1)
  })

  it('keeps tasks when a run changes, and changes them one by one', async () => {
    const s = store(all)
    await s.loadAll()
    await s.loadRun('r1')
    s.apply({ event: 'workflow.changed', run: { ...run('r1'), tasks_committed: 1 } })
    s.apply({ event: 'job.status.changed', run: 'r1', task: task('t', 'committed') })
    const now = s.state.runs.get('r1')!
    expect([now.tasks_committed, now.tasks[0]!.state]).toEqual([1, 'committed'])
    s.apply({ event: 'job.status.changed', run: 'unknown', task: task('t', 'failed') })
  })

  it('follows transfers and loads a run anew at its end', async () => {
    const s = store(all)
    await s.loadAll()
    s.apply({ event: 'transfer.progress', digest: 'd1', done: 7, len: 10 })
    expect(s.state.runs.get('r1')!.results[0]!.fetched).toBe(7)
    s.apply({ event: 'workflow.completed', run: { ...run('r1'), state: 'succeeded', terminal: true } })
    await vi.waitFor(() => expect(s.get).toHaveBeenCalledWith('/api/v1/runs/r1'))
    expect(s.trouble).not.toHaveBeenCalled()
  })
})
