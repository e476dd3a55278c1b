/** Instants and lengths, for people; local time. Pure: now is a parameter. */

import type { Language } from '../api/types'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS

const two = (number: number) => String(number).padStart(2, '0')

/** `21:10`. */
export function formatClock(at_ms: number): string {
  const at = new Date(at_ms)
  return `${two(at.getHours())}:${two(at.getMinutes())}`
}

function dayStart(at_ms: number): number {
  const at = new Date(at_ms)
  return new Date(at.getFullYear(), at.getMonth(), at.getDate()).getTime()
}

/** The day seen from now: empty for today, a word for its neighbours, else month and day (with the year of another one). */
export function formatDay(at_ms: number, now_ms: number, language: Language): string {
  const days = Math.round((dayStart(at_ms) - dayStart(now_ms)) / DAY_MS)
  if (days === 0) return ''
  if (days === 1) return language === 'zh' ? '明天' : 'tomorrow'
  if (days === -1) return language === 'zh' ? '昨天' : 'yesterday'
  const at = new Date(at_ms)
  const year = at.getFullYear() === new Date(now_ms).getFullYear() ? '' : String(at.getFullYear())
  if (language === 'zh') return `${year && `${year} 年 `}${at.getMonth() + 1} 月 ${at.getDate()} 日`
  return at.toLocaleDateString('en-GB', { day: 'numeric', month: 'short' }) + (year && ` ${year}`)
}

/** `21:10`, `tomorrow 02:05`, `4 Aug 02:05`. */
export function formatTime(at_ms: number, now_ms: number, language: Language): string {
  const day = formatDay(at_ms, now_ms, language)
  return day ? `${day} ${formatClock(at_ms)}` : formatClock(at_ms)
}

/** `21:10–23:40`, `tomorrow 02:05–04:00`, `23:10 – tomorrow 01:20`; one time when both are the same minute. */
export function formatRange(from_ms: number, to_ms: number, now_ms: number, language: Language): string {
  const from = formatTime(from_ms, now_ms, language)
  if (Math.floor(from_ms / MINUTE_MS) === Math.floor(to_ms / MINUTE_MS)) return from
  if (dayStart(from_ms) === dayStart(to_ms)) return `${from}–${formatClock(to_ms)}`
  return `${from} – ${formatTime(to_ms, now_ms, language)}`
}

/** A length in its two largest units: `45 s`, `12 min`, `3 h 40 min`, `24 h`, `2 d 5 h`. */
export function formatSpan(span_ms: number, language: Language): string {
  const [d, h, min, s] = language === 'zh' ? ['天', '小时', '分钟', '秒'] : ['d', 'h', 'min', 's']
  const span = Math.max(0, Math.round(span_ms / 1000) * 1000)
  const pair = (big: number, bigUnit: string, small: number, smallUnit: string) =>
    `${big}\u00a0${bigUnit}${small > 0 ? ` ${small}\u00a0${smallUnit}` : ''}`
  if (span < MINUTE_MS) return `${span / 1000}\u00a0${s}`
  if (Math.round(span / MINUTE_MS) < 60) return `${Math.round(span / MINUTE_MS)}\u00a0${min}`
  if (span < 2 * DAY_MS) {
    const minutes = Math.round(span / MINUTE_MS)
    return pair(Math.floor(minutes / 60), h!, minutes % 60, min!)
  }
  const hours = Math.round(span / HOUR_MS)
  return pair(Math.floor(hours / 24), d!, hours % 24, h!)
}

/** How long ago, as a sentence part. */
export function formatAgo(at_ms: number, now_ms: number, language: Language): string {
  const span = now_ms - at_ms
  if (span < 20_000) return language === 'zh' ? '刚刚' : 'just now'
  const text = formatSpan(span < HOUR_MS ? span : Math.round(span / MINUTE_MS) * MINUTE_MS, language)
  return language === 'zh' ? `${text}前` : `${text} ago`
}

/** Whether a host's clock is too far off for its data to be judged as fresh. */
export function clockIsOff(skew_ms: number): boolean {
  return Math.abs(skew_ms) > 5 * MINUTE_MS
}
