import { describe, expect, it } from 'vitest'
import { plain } from '../src/format/plain'
import { incidentSpan, plotEnd, RANGES } from '../src/format/range'
import { groupSeries } from '../src/format/series'
import { clockIsOff, formatAgo, formatDay, formatRange, formatSpan, formatTime } from '../src/format/time'
import { formatBytes, formatDrawn, formatRatio, formatValue, niceTicks, rateOf } from '../src/format/value'
import type { Forecast, Incident } from '../src/api/types'

const at = (text: string) => new Date(text).getTime()
const NOW = at('2026-08-03T20:00:00')
const HOUR = 3_600_000
/** What stays together on a line is compared as ordinary text. */
const flat = (text: string) => text.replaceAll('\u00a0', ' ').replaceAll('\u2009', ' ')

describe('values', () => {
  it('ratios are shown as per cent', () => {
    expect(formatRatio(0.9)).toBe('90%')
    expect(formatRatio(0)).toBe('0%')
    expect(formatRatio(0.012)).toBe('1.2%')
    expect(formatValue(0.914, 'ratio')).toBe('91.4%')
    expect(formatValue(0.9, 'ratio')).toBe('90%')
    expect(formatValue(0.99996, 'ratio')).toBe('100%')
  })

  it('bytes are shown in binary units', () => {
    expect(flat(formatBytes(0))).toBe('0 B')
    expect(flat(formatBytes(1023))).toBe('1023 B')
    expect(flat(formatBytes(1536))).toBe('1.5 KiB')
    expect(flat(formatBytes(14 * 1024 ** 3))).toBe('14 GiB')
    expect(flat(formatBytes(-2048))).toBe('-2 KiB')
    expect(flat(formatBytes(3 * 1024 ** 6))).toBe('3072 PiB')
  })

  it('increments are shown as a rate', () => {
    expect(rateOf(10_240, 'bytes', 10_000)).toBe(1024)
    expect(rateOf(2, 'count', 30_000)).toBe(4)
    expect(flat(formatDrawn(1024, 'increment', 'bytes'))).toBe('1 KiB/s')
    expect(flat(formatDrawn(4, 'increment', 'count'))).toBe('4/min')
  })

  it('counts keep what matters of them', () => {
    expect(formatValue(1.834, 'count')).toBe('1.834')
    expect(formatValue(2, 'count')).toBe('2')
    expect(flat(formatValue(41_204, 'count'))).toBe('41 204')
    expect(flat(formatValue(350, 'milliseconds'))).toBe('350 ms')
    expect(flat(formatValue(2500, 'milliseconds'))).toBe('2.5 s')
  })

  it('ticks are round in the unit that is shown', () => {
    expect(niceTicks(0.75, 0.95, 'ratio').map((tick) => formatRatio(tick))).toEqual(['75%', '80%', '85%', '90%', '95%'])
    expect(niceTicks(0, 16 * 1024 ** 3, 'bytes').map(formatBytes).map(flat)).toEqual(['0 B', '5 GiB', '10 GiB', '15 GiB'])
    expect(niceTicks(1, 1, 'count')).toEqual([1])
    for (const [low, high] of [[0, 1e-6], [-3, 7], [0.1, 1e6]] as const) {
      const ticks = niceTicks(low, high, 'count')
      expect(ticks.length).toBeGreaterThan(1)
      expect(ticks.length).toBeLessThan(8)
      expect(Math.min(...ticks)).toBeGreaterThanOrEqual(low - 1e-9)
    }
  })
})

describe('times', () => {
  it('the day is named only when it is not today', () => {
    expect(formatTime(at('2026-08-03T21:10:00'), NOW, 'en')).toBe('21:10')
    expect(formatTime(at('2026-08-04T02:05:00'), NOW, 'en')).toBe('tomorrow 02:05')
    expect(formatTime(at('2026-08-04T02:05:00'), NOW, 'zh')).toBe('明天 02:05')
    expect(formatTime(at('2026-08-02T02:05:00'), NOW, 'zh')).toBe('昨天 02:05')
    expect(formatDay(at('2026-08-09T02:05:00'), NOW, 'en')).toBe('9 Aug')
    expect(formatDay(at('2025-12-09T02:05:00'), NOW, 'zh')).toBe('2025 年 12 月 9 日')
  })

  it('a range names a day once', () => {
    expect(formatRange(at('2026-08-03T21:10:00'), at('2026-08-03T23:40:00'), NOW, 'en')).toBe('21:10–23:40')
    expect(formatRange(at('2026-08-04T01:00:00'), at('2026-08-04T03:00:00'), NOW, 'zh')).toBe('明天 01:00–03:00')
    expect(formatRange(at('2026-08-03T23:10:00'), at('2026-08-04T01:20:00'), NOW, 'en')).toBe('23:10 – tomorrow 01:20')
    expect(formatRange(at('2026-08-03T23:10:05'), at('2026-08-03T23:10:55'), NOW, 'en')).toBe('23:10')
  })

  it('lengths are told in their two largest units', () => {
    const spans: [number, string, string][] = [
      [45_000, '45 s', '45 秒'], [12 * 60_000, '12 min', '12 分钟'], [59.8 * 60_000, '1 h', '1 小时'], [3 * HOUR + 40 * 60_000, '3 h 40 min', '3 小时 40 分钟'],
      [24 * HOUR, '24 h', '24 小时'], [53 * HOUR, '2 d 5 h', '2 天 5 小时'], [-5, '0 s', '0 秒'],
    ]
    for (const [span, en, zh] of spans) {
      expect(flat(formatSpan(span, 'en'))).toBe(en)
      expect(flat(formatSpan(span, 'zh'))).toBe(zh)
    }
  })

  it('what was seen a moment ago is seen now', () => {
    expect(formatAgo(NOW - 8000, NOW, 'en')).toBe('just now')
    expect(formatAgo(NOW + 8000, NOW, 'zh')).toBe('刚刚')
    expect(flat(formatAgo(NOW - 47 * 60_000, NOW, 'zh'))).toBe('47 分钟前')
  })

  it('a clock is off beyond five minutes, either way', () => {
    expect([0, 299_000, -299_000].some(clockIsOff)).toBe(false)
    expect([301_000, -301_000].every(clockIsOff)).toBe(true)
  })
})

describe('plots', () => {
  const forecast = (state: Forecast['state']): Forecast => ({ state, warned: false, probability: 0, at_ms: NOW, value: 0, threshold: 1, horizon_ms: 24 * HOUR, reasons: [], band: [] })

  it('a plot reaches past the expected crossing, and not past the horizon', () => {
    const warning = (latest_ms: number) => forecast({ is: 'warning', probability: 1, earliest_ms: NOW, likely_ms: NOW, latest_ms })
    const end = plotEnd(warning(NOW + 8 * HOUR), NOW, RANGES['6h'])
    expect(end).toBeGreaterThan(NOW + 8 * HOUR)
    expect(plotEnd(warning(NOW + 24 * HOUR), NOW, RANGES['24h'])).toBe(NOW + 24 * HOUR)
    expect(plotEnd(warning(NOW + 24 * HOUR), NOW, RANGES['1h'])).toBe(NOW + 4 * HOUR)
  })

  it('an incident is shown with the hours before it, and with some after it once it is over', () => {
    const incident = (opened_ms: number, resolved_ms: number | null) => ({ opened_ms, resolved_ms }) as Incident
    expect(incidentSpan(incident(NOW, null))).toEqual({ from_ms: NOW - 6 * HOUR, to_ms: null })
    expect(incidentSpan(incident(NOW, NOW + HOUR))).toEqual({ from_ms: NOW - 6 * HOUR, to_ms: NOW + 2 * HOUR })
    expect(incidentSpan(incident(NOW, NOW + 74 * HOUR))).toEqual({ from_ms: NOW - 6 * HOUR, to_ms: NOW + 84 * HOUR })
  })

  it('without a forecast a plot ends now', () => {
    expect(plotEnd(null, NOW, HOUR)).toBe(NOW)
    expect(plotEnd(forecast({ is: 'no_forecast', reason: { reason: 'bad_question' } }), NOW, HOUR)).toBe(NOW)
    expect(plotEnd(forecast({ is: 'stable' }), NOW, HOUR)).toBeGreaterThan(NOW)
  })

  it('series that nobody knows can be picked too', () => {
    const series = (metric: string) => ({ entity: 'e', entity_kind: 'host' as const, entity_name: 'h', metric, instance: '', kind: 'gauge' as const, unit: 'count' as const })
    const groups = groupSeries(['queue_depth', 'cpu_used_ratio', 'agent_rss_bytes'].map(series))
    expect(groups.map((group) => group.name)).toEqual(['cpu', 'agent', 'other'])
  })
})

describe('untrusted lines', () => {
  it('colours go, and what would hide or turn text is marked', () => {
    expect(plain('\u001b[31mERROR\u001b[0m 数据库连接超时')).toBe('ERROR 数据库连接超时')
    expect(plain('a\u202egnp.exe\u0007')).toBe('a·gnp.exe·')
    expect(plain('\tat Main.java:3\n')).toBe('\tat Main.java:3\n')
  })
})
