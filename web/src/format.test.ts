import { expect, it } from 'vitest'
import { bytes, duration, rtt, shortKey } from './format'

it('says bytes in binary units', () => {
  expect([0, 1023, 1024, 10_240, 1 << 30, 2 ** 50].map(bytes)).toEqual([
    '0 B',
    '1023 B',
    '1.0 KiB',
    '10 KiB',
    '1.0 GiB',
    '1024 TiB',
  ])
})

it('says durations in two units at most', () => {
  expect([-5, 12, 59_999, 61_000, 3_660_000, 90_000_000].map(duration)).toEqual([
    '0 ms',
    '12 ms',
    '59 s',
    '1 min 1 s',
    '1 h 1 min',
    '1 d 1 h',
  ])
})

it('says round-trip times and keys', () => {
  expect([900, 1_500, 45_000].map(rtt)).toEqual(['900 µs', '1.5 ms', '45 ms'])
  expect(shortKey('key_' + 'a'.repeat(40))).toBe('key_aaaaaaaa…aaaa')
})
