import { computed, onScopeDispose, ref, type ComputedRef } from 'vue'

/** The run that the address names: `#/runs/<id>`. Back and forward work, and a view can be bookmarked. */
export function useRunInHash(): ComputedRef<string | null> {
  const hash = ref(window.location.hash)
  const read = () => (hash.value = window.location.hash)
  window.addEventListener('hashchange', read)
  onScopeDispose(() => window.removeEventListener('hashchange', read))
  return computed(() => /^#\/runs\/([0-9a-f]{32})$/.exec(hash.value)?.[1] ?? null)
}
