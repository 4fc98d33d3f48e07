import { reactive } from 'vue'
import type { Client } from '../api/client'
import type { Notice, Peer, Run, Status, Task } from '../api/types'

/**
 * What the node has told: server state and nothing else. Loaded whole at first and after a gap, kept current by
 * notices in between. Notices carry whole things, so applying one twice changes nothing.
 */
export interface Network {
  status: Status | null
  peers: Map<string, Peer>
  runs: Map<string, Run>
}

export interface NetworkStore {
  readonly state: Network
  loadAll(): Promise<void>
  loadRun(run: string): Promise<void>
  apply(notice: Notice): void
}

export function createNetworkStore(client: Client, onTrouble: (e: unknown) => void): NetworkStore {
  const state: Network = reactive({ status: null, peers: new Map(), runs: new Map() })

  async function loadStatus(): Promise<void> {
    state.status = await client.get<Status>('/api/v1/status')
  }

  async function loadAll(): Promise<void> {
    const [, peers, runs] = await Promise.all([
      loadStatus(),
      client.get<{ peers: Peer[] }>('/api/v1/peers'),
      client.get<{ runs: Run[] }>('/api/v1/runs'),
    ])
    state.peers = new Map(peers.peers.map((p) => [p.key, p]))
    const known = state.runs
    state.runs = new Map(runs.runs.map((r) => [r.run, withTasks(r, known.get(r.run)?.tasks)]))
  }

  async function loadRun(run: string): Promise<void> {
    const loaded = await client.get<Run>(`/api/v1/runs/${encodeURIComponent(run)}`)
    state.runs.set(loaded.run, loaded)
  }

  function apply(notice: Notice): void {
    switch (notice.event) {
      case 'peer.changed':
        state.peers.set(notice.peer.key, notice.peer)
        countConnected()
        break
      case 'workflow.changed':
        putRun(notice.run)
        break
      case 'workflow.completed':
      case 'workflow.failed':
        putRun(notice.run)
        // The end brings receipts and results with it.
        loadRun(notice.run.run).catch(onTrouble)
        break
      case 'job.status.changed':
        putTask(notice.run, notice.task)
        break
      case 'record.published':
        loadStatus().catch(onTrouble)
        break
      case 'transfer.progress':
        for (const run of state.runs.values())
          for (const result of run.results) if (result.digest === notice.digest) result.fetched = notice.done
        break
    }
  }

  function putRun(run: Run): void {
    state.runs.set(run.run, withTasks(run, state.runs.get(run.run)?.tasks))
  }

  function putTask(id: string, task: Task): void {
    const run = state.runs.get(id)
    if (run === undefined) return
    const at = run.tasks.findIndex((t) => t.id === task.id)
    // A run whose tasks were never loaded is loaded when it is looked at.
    if (at >= 0) run.tasks[at] = task
  }

  function countConnected(): void {
    if (state.status === null) return
    const open = [...state.peers.values()].filter((p) => p.state !== 'closed' && p.state !== 'connecting')
    state.status.connected = open.length
  }

  return { state, loadAll, loadRun, apply }
}

/** Lists and notices leave tasks out; those known already stay. */
function withTasks(run: Run, tasks: Task[] | undefined): Run {
  return run.tasks.length === 0 && tasks !== undefined ? { ...run, tasks } : run
}
