import { expect, it, vi } from 'vitest'
import type { Client } from '../api/client'
import { useSession } from './useSession'

function rig(hash: string, post: () => Promise<unknown>) {
  const kept = new Map<string, string>()
  const clearHash = vi.fn()
  const session = useSession({
    storage: {
      getItem: (k) => kept.get(k) ?? null,
      setItem: (k, v) => void kept.set(k, v),
      removeItem: (k) => void kept.delete(k),
    },
    hash: () => hash,
    clearHash,
    client: () => ({ post, delete: async () => {} }) as unknown as Client,
  })
  return { session, kept, clearHash }
}

it('exchanges the code of the link and takes it out of the address', async () => {
  const r = rig('#signin=00ff', async () => ({ token: 'secret' }))
  await r.session.enter()
  expect(r.session.token.value).toBe('secret')
  expect([...r.kept.values()]).toEqual(['secret'])
  expect(r.clearHash).toHaveBeenCalledOnce()
  await r.session.signOut()
  expect([r.session.token.value, r.kept.size]).toEqual([null, 0])
})

it('says when a link does not work', async () => {
  const r = rig('#signin=00ff', async () => {
    throw new Error('used')
  })
  await r.session.enter()
  expect(r.session.trouble.value).toContain('does not work')
  expect(r.clearHash).toHaveBeenCalledOnce()
})

it('leaves other fragments alone', async () => {
  const post = vi.fn()
  const r = rig('#/runs/1', post)
  await r.session.enter()
  expect(post).not.toHaveBeenCalled()
  expect(r.clearHash).not.toHaveBeenCalled()
})
