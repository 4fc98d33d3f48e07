import { mount } from '@vue/test-utils'
import { describe, expect, it } from 'vitest'
import type { Client } from '../api/client'
import type { Peer, Run, Status } from '../api/types'
import ConnectionBanner from './ConnectionBanner.vue'
import NodePanel from './NodePanel.vue'
import PeerTable from './PeerTable.vue'
import RunDetail from './RunDetail.vue'

const HOSTILE = '<img src=x onerror="window.__pwn = 1"><script>window.__pwn = 1<\/script>'

const peer = (over: Partial<Peer>): Peer => ({
  key: 'key_1',
  peer_id: 'p',
  state: 'connected',
  since: 0,
  addr: '192.0.2.1:1',
  rtt_us: 1_500,
  bytes_sent: 0,
  bytes_received: 2_048,
  first_seen: 0,
  last_seen: 0,
  source: 'dht',
  trouble: null,
  services: 0,
  ...over,
})

const run = (over: Partial<Run>): Run => ({
  run: 'ab'.repeat(16),
  name: HOSTILE,
  state: 'running',
  terminal: false,
  submitted: 0,
  ended: null,
  why: HOSTILE,
  tasks: [
    {
      id: 'count',
      state: 'failed',
      why: HOSTILE,
      since: 0,
      service: HOSTILE,
      peer: 'key_1',
      job: 'running',
      attempt: 2,
      exit: { class: 'user', code: 3 },
      usage: null,
      outputs: [{ port: 'stderr', digest: 'd', len: 1 }],
      has_receipt: true,
    },
  ],
  results: [{ sink: 'top', n: 0, task: 'count', port: 'stdout', digest: 'd', len: 10, fetched: 4, href: '/r' }],
  tasks_committed: 1,
  tasks_total: 3,
  ...over,
})

describe('what strangers have named', () => {
  it('is shown as text wherever it appears', () => {
    const detail = mount(RunDetail, { props: { run: run({}), client: {} as Client, now: 1_000 } })
    const peers = mount(PeerTable, { props: { peers: [peer({ trouble: HOSTILE, source: HOSTILE })], now: 1_000 } })
    for (const view of [detail, peers]) {
      expect(view.findAll('img, script')).toHaveLength(0)
      expect(view.text()).toContain(HOSTILE)
      expect(view.html()).not.toMatch(/ style=/)
    }
  })
})

describe('a run', () => {
  it('says why a task failed, and offers its log, receipt and results once they are here', () => {
    const detail = mount(RunDetail, { props: { run: run({}), client: {} as Client, now: 1_000 } })
    const labels = detail.findAll('button').map((b) => b.attributes('aria-label') ?? b.text())
    expect(labels).toEqual(['Cancel this run', 'Download the log of count', 'Download the receipt of count'])
    expect(detail.text()).toContain('user (3)')
    expect(detail.text()).toContain('4 B here and verified')
  })

  it('cannot be cancelled once it has ended, and its results can be downloaded', async () => {
    const result = { ...run({}).results[0]!, fetched: 10 }
    const ended = run({ state: 'succeeded', terminal: true, ended: 5_000, results: [result] })
    const detail = mount(RunDetail, { props: { run: ended, client: {} as Client, now: 9_000 } })
    expect(detail.text()).not.toContain('Cancel this run')
    expect(detail.text()).toContain('took 5 s')
    expect(detail.find('[aria-label="Download top 1"]').exists()).toBe(true)
  })

  it('says why it could not be cancelled', async () => {
    const client = { post: async () => Promise.reject(new Error('too late')) } as unknown as Client
    const detail = mount(RunDetail, { props: { run: run({}), client, now: 1_000 } })
    await detail.find('button').trigger('click')
    await new Promise((done) => setTimeout(done, 0))
    expect(detail.find('[role="alert"]').text()).toBe('too late')
  })
})

describe('peers', () => {
  it('come connected first, with trouble beside those that are not', () => {
    const peers = [peer({ key: 'key_closed', state: 'closed', trouble: 'no route' }), peer({ key: 'key_open' })]
    const table = mount(PeerTable, { props: { peers, now: 1_000 } })
    const rows = table.findAll('tbody tr')
    expect(rows[0]!.text()).toContain('key_open')
    expect(rows[0]!.text()).toContain('1.5 ms')
    expect(rows[1]!.text()).toContain('no route')
  })
})

describe('the connection', () => {
  it('says why it was lost, counts down silently and can be tried at once', async () => {
    const connection = { state: 'lost' as const, why: 'The node has stopped or restarts.', retryAt: 3_400 }
    const banner = mount(ConnectionBanner, { props: { connection, now: 1_000 } })
    expect(banner.find('[role="status"]').text()).toBe(
      'The node has stopped or restarts. What you see may be out of date.',
    )
    expect(banner.find('[aria-hidden="true"]').text()).toBe('Next try in 3 s')
    await banner.find('button').trigger('click')
    expect(banner.emitted('retry')).toHaveLength(1)
  })
})

describe('the node', () => {
  it('says how it is reachable and what its record waits for', () => {
    const status: Status = {
      key: 'key_1',
      peer_id: 'p',
      version: '0.1.0',
      uptime_ms: 0,
      local_addrs: ['0.0.0.0:30906'],
      observed_addrs: [],
      connected: 0,
      known: 0,
      dht_nodes: 0,
      dht_reachable: false,
      record: null,
      record_waiting: 'an address peers agree on',
      services: 0,
      runs_active: 0,
      jobs_active: 0,
      reach: {
        nat: 'symmetric',
        nat_words: '',
        mapped: ['192.0.2.1:30906'],
        relays: [{ relay: 'key_r', addr: '192.0.2.2:30906', active: false }],
        relay_words: 'looking for a second relay',
        punches: [],
      },
      refused: { 'forged records': 2, none: 0 },
    }
    const text = mount(NodePanel, { props: { status, now: 0 } }).text()
    expect(text).toContain('Is UDP blocked?')
    expect(text).toContain('an address peers agree on')
    expect(text).toContain('forged records: 2')
    expect(text).not.toContain('none: 0')
    expect(text).toContain('symmetric')
    expect(text).toContain('192.0.2.1:30906')
    expect(text).toContain('looking for a second relay')
    expect(text).toContain('standby')
  })
})
