import { onScopeDispose, readonly, ref, type Ref } from 'vue'

/** The time, moving on once a second while somebody looks. */
export function useNow(): Readonly<Ref<number>> {
  const now = ref(Date.now())
  const id = setInterval(() => (now.value = Date.now()), 1000)
  onScopeDispose(() => clearInterval(id))
  return readonly(now)
}
