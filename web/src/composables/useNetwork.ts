import { onScopeDispose, readonly, ref, type Ref } from 'vue'
import { ApiFailure, wordsOf } from '../api/client'
import { browserSocket, connectEvents, type Connection } from '../api/events'
import { createNetworkStore, type NetworkStore } from '../store/network'
import type { Session } from './useSession'

export interface NetworkView {
  store: NetworkStore
  connection: Readonly<Ref<Connection>>
  /** What went wrong last, until it is dismissed. */
  trouble: Ref<string | null>
  retryNow(): void
}

/** The node's state, live for as long as the component that asks for it. */
export function useNetwork(session: Session): NetworkView {
  const connection = ref<Connection>({ state: 'connecting' })
  const trouble = ref<string | null>(null)

  function onTrouble(e: unknown): void {
    if (e instanceof ApiFailure && e.status === 401) session.forget('Your session has ended.')
    else trouble.value = wordsOf(e)
  }

  const store = createNetworkStore(session.client, onTrouble)
  const events = connectEvents({
    ticket: async () => (await session.client.post<{ ticket: string }>('/api/v1/events/ticket', {})).ticket,
    open: () => browserSocket(`ws://${window.location.host}/api/v1/events`),
    isRefusal: (e) => e instanceof ApiFailure && e.status === 401,
    words: wordsOf,
    onNotice: store.apply,
    onStale: () => void store.loadAll().catch(onTrouble),
    onConnection(next) {
      connection.value = next
      if (next.state === 'refused') session.forget('Your session has ended.')
    },
  })
  onScopeDispose(events.stop)
  return { store, connection: readonly(connection) as Readonly<Ref<Connection>>, trouble, retryNow: events.retryNow }
}
