/** Requests to the node. A failure always has words: what, and how to mend it. */

export class ApiFailure extends Error {
  constructor(
    /** HTTP status; 0 when the node did not answer at all. */
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint: string,
  ) {
    super(message)
  }
}

export interface Client {
  get<T>(path: string): Promise<T>
  post<T>(path: string, body: unknown): Promise<T>
  delete(path: string): Promise<void>
  download(path: string): Promise<{ blob: Blob; name: string }>
}

type Fetch = (input: string, init: RequestInit) => Promise<Response>

/** `token` is asked for at each request, so that signing in or out takes effect at once. */
export function createClient(token: () => string | null, fetcher: Fetch = (i, o) => fetch(i, o)): Client {
  async function request(method: string, path: string, body?: unknown): Promise<Response> {
    const headers: Record<string, string> = {}
    const bearer = token()
    if (bearer !== null) headers['Authorization'] = `Bearer ${bearer}`
    const init: RequestInit = { method, headers, credentials: 'omit', redirect: 'error' }
    if (body !== undefined) {
      headers['Content-Type'] = 'application/json'
      init.body = JSON.stringify(body)
    }
    let response: Response
    try {
      response = await fetcher(path, init)
    } catch {
      throw new ApiFailure(0, 'unreachable', 'The node does not answer.', 'Is it still running?')
    }
    if (!response.ok) throw await failureOf(response)
    return response
  }

  return {
    get: async (path) => (await request('GET', path)).json(),
    post: async (path, body) => (await request('POST', path, body)).json(),
    delete: async (path) => {
      await request('DELETE', path)
    },
    download: async (path) => {
      const response = await request('GET', path)
      const name = /filename="([^"]+)"/.exec(response.headers.get('content-disposition') ?? '')?.[1]
      return { blob: await response.blob(), name: name ?? 'result' }
    },
  }
}

async function failureOf(response: Response): Promise<ApiFailure> {
  try {
    const { error } = await response.json()
    return new ApiFailure(response.status, String(error.code), String(error.message), String(error.hint))
  } catch {
    const words = `The node answered ${response.status}.`
    return new ApiFailure(response.status, 'unreadable', words, 'Reload the page.')
  }
}

/** Words for any thrown thing. */
export function wordsOf(e: unknown): string {
  if (e instanceof ApiFailure) return `${e.message} ${e.hint}`.trim()
  return e instanceof Error ? e.message : String(e)
}
