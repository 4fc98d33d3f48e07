/** Numbers for people. */

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

export function bytes(n: number): string {
  let unit = 0
  let value = n
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${UNITS[unit]}`
}

export function duration(ms: number): string {
  const s = Math.floor(Math.max(0, ms) / 1000)
  if (s < 1) return `${Math.max(0, Math.round(ms))} ms`
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`
}

export function rtt(us: number): string {
  return us < 1000 ? `${us} µs` : `${(us / 1000).toFixed(us < 10_000 ? 1 : 0)} ms`
}

/** Both ends of a long name, which is where people compare. */
export function shortKey(key: string): string {
  return key.length <= 20 ? key : `${key.slice(0, 12)}…${key.slice(-4)}`
}
