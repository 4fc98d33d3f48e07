/** The node's JSON, field by field as `node/src/api/dto.rs` writes it. Times are milliseconds since 1970. */

export interface Status {
  key: string
  peer_id: string
  version: string
  uptime_ms: number
  local_addrs: string[]
  observed_addrs: { addr: string; peers: number }[]
  connected: number
  known: number
  dht_nodes: number
  dht_reachable: boolean
  record: { seq: number; stored_at: number } | null
  record_waiting: string | null
  services: number
  runs_active: number
  jobs_active: number
  reach: Reach
  refused: Record<string, number>
}

/** How others reach the node. */
export interface Reach {
  nat: string
  nat_words: string
  mapped: string[]
  relays: { relay: string; addr: string; active: boolean }[]
  relay_words: string
  punches: { ours: string; theirs: string; tried: number; punched: number; first_try: number }[]
}

export type PeerState = 'connecting' | 'connected' | 'idle' | 'stale' | 'closed'

export interface Peer {
  key: string
  peer_id: string
  state: PeerState
  since: number
  addr: string | null
  rtt_us: number | null
  bytes_sent: number
  bytes_received: number
  first_seen: number
  last_seen: number
  source: string
  trouble: string | null
  services: number
}

export type RunState =
  | 'validating'
  | 'running'
  | 'paused'
  | 'cancelling'
  | 'finalizing'
  | 'succeeded'
  | 'failed'
  | 'cancelled'

export type TaskState =
  | 'blocked'
  | 'ready'
  | 'placing'
  | 'active'
  | 'committing'
  | 'committed'
  | 'backoff'
  | 'failed'
  | 'skipped'
  | 'cancelled'

export interface Task {
  id: string
  state: TaskState
  why: string | null
  since: number
  service: string
  peer: string | null
  job: string | null
  attempt: number
  exit: { class: string; code: number } | null
  usage: { cpu_ns: number; fuel: number; memory_bytes: number; wall_ms: number } | null
  outputs: { port: string; digest: string; len: number }[]
  has_receipt: boolean
}

export interface RunResult {
  sink: string
  n: number
  task: string
  port: string
  digest: string
  len: number
  fetched: number
  href: string
}

export interface Run {
  run: string
  name: string
  state: RunState
  terminal: boolean
  submitted: number
  ended: number | null
  why: string | null
  /** Empty in lists and notices. */
  tasks: Task[]
  results: RunResult[]
  tasks_committed: number
  tasks_total: number
}

export type Notice =
  | { event: 'peer.changed'; peer: Peer }
  | { event: 'workflow.changed' | 'workflow.completed' | 'workflow.failed'; run: Run }
  | { event: 'job.status.changed'; run: string; task: Task }
  | { event: 'record.published'; record_seq: number; stored: number }
  | { event: 'transfer.progress'; digest: string; done: number; len: number }

export type ServerMessage =
  | { type: 'hello'; epoch: string; next: number }
  | ({ type: 'notice'; seq: number } & Notice)
  | { type: 'gap'; from: number; to: number }
