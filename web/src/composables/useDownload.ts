import { ref, type Ref } from 'vue'
import type { Client } from '../api/client'
import { wordsOf } from '../api/client'

/** Downloads need the token, which a plain link cannot carry: fetched here, then handed to the browser to save. */
export function useDownload(client: Client): {
  busy: Ref<string | null>
  trouble: Ref<string | null>
  save(path: string): Promise<void>
} {
  const busy = ref<string | null>(null)
  const trouble = ref<string | null>(null)

  async function save(path: string): Promise<void> {
    busy.value = path
    trouble.value = null
    try {
      const { blob, name } = await client.download(path)
      const url = URL.createObjectURL(blob)
      const link = document.createElement('a')
      link.href = url
      link.download = name
      link.click()
      URL.revokeObjectURL(url)
    } catch (e) {
      trouble.value = wordsOf(e)
    } finally {
      busy.value = null
    }
  }

  return { busy, trouble, save }
}
