import { readonly, ref, type Ref } from 'vue'
import { createClient, wordsOf, type Client } from '../api/client'

/**
 * Who is signed in. The one-time code comes in the fragment of the link that the node prints, which browsers send to
 * nobody, and is taken out of the address bar at once. The session token stays in this tab's `sessionStorage`.
 */

const KEY = 'remote-network-session'

export interface Session {
  token: Readonly<Ref<string | null>>
  client: Client
  trouble: Readonly<Ref<string | null>>
  /** Exchanges the code in the address, when there is one. */
  enter(): Promise<void>
  signOut(): Promise<void>
  /** The node no longer knows this session. */
  forget(why: string): void
}

export interface Surroundings {
  storage: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>
  hash(): string
  clearHash(): void
  client?(token: () => string | null): Client
}

const browser: Surroundings = {
  storage: window.sessionStorage,
  hash: () => window.location.hash,
  clearHash: () => window.history.replaceState(null, '', window.location.pathname),
}

export function useSession(around: Surroundings = browser): Session {
  const token = ref(around.storage.getItem(KEY))
  const trouble = ref<string | null>(null)
  const client = (around.client ?? createClient)(() => token.value)

  async function enter(): Promise<void> {
    const code = /^#signin=([0-9a-f]+)$/.exec(around.hash())?.[1]
    if (code === undefined) return
    around.clearHash()
    try {
      const session = await client.post<{ token: string }>('/api/v1/session', { code })
      token.value = session.token
      trouble.value = null
      around.storage.setItem(KEY, session.token)
    } catch (e) {
      if (token.value === null) trouble.value = `This link does not work. ${wordsOf(e)}`
    }
  }

  function forget(why: string): void {
    token.value = null
    trouble.value = why
    around.storage.removeItem(KEY)
  }

  async function signOut(): Promise<void> {
    try {
      await client.delete('/api/v1/session')
    } finally {
      forget('You have signed out.')
    }
  }

  return { token: readonly(token), client, trouble: readonly(trouble), enter, signOut, forget }
}
