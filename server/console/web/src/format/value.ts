/** Numbers with their units, for people; a number and its unit stay on one line. Pure. */

import type { Kind, Unit } from '../api/types'

const BINARY = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const

/** `digits` significant digits, without trailing zeros and never in exponent form. */
function short(value: number, digits = 3): string {
  if (value === 0) return '0'
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))))
  const text = value.toFixed(Math.min(places, 6))
  return text.includes('.') ? text.replace(/0+$/, '').replace(/\.$/, '') : text
}

/** A share of one as per cent: whole ones, or with a decimal where that tells more. */
export function formatRatio(ratio: number, decimals = Math.abs(ratio) < 0.1 && ratio !== 0 ? 1 : 0): string {
  return `${(ratio * 100).toFixed(decimals)}%`
}

/** The binary unit that suits `bytes`, and how many bytes it has. */
export function binaryUnit(bytes: number): { name: string; size: number } {
  let step = 0
  while (step < BINARY.length - 1 && Math.abs(bytes) >= 1024 ** (step + 1)) step += 1
  return { name: BINARY[step]!, size: 1024 ** step }
}

export function formatBytes(bytes: number): string {
  const unit = binaryUnit(bytes)
  return `${short(bytes / unit.size)}\u00a0${unit.name}`
}

/** A value as it is read on a host: a level. */
export function formatValue(value: number, unit: Unit): string {
  switch (unit) {
    case 'ratio':
      return `${parseFloat((value * 100).toFixed(1))}%`
    case 'bytes':
      return formatBytes(value)
    case 'milliseconds':
      return value >= 1000 ? `${short(value / 1000)}\u00a0s` : `${short(value)}\u00a0ms`
    case 'count':
      return Math.abs(value) >= 10_000 ? Math.round(value).toLocaleString('en-US').replaceAll(',', '\u2009') : short(value, 4)
  }
}

/** What an increment over `step_ms` is drawn as: bytes and milliseconds a second, other things a minute. */
export function rateOf(sum: number, unit: Unit, step_ms: number): number {
  return (sum / step_ms) * (unit === 'count' ? 60_000 : 1000)
}

/** The suffix of a drawn value: nothing for levels. */
export function rateSuffix(kind: Kind, unit: Unit): string {
  if (kind === 'gauge') return ''
  return unit === 'count' ? '/min' : '/s'
}

/** A drawn value with its unit. */
export function formatDrawn(value: number, kind: Kind, unit: Unit): string {
  return formatValue(value, unit) + rateSuffix(kind, unit)
}

const STEPS = [1, 2, 2.5, 5, 10]

/** At most `wanted` round values from `low` to `high`; bytes step in their own binary unit. */
export function niceTicks(low: number, high: number, unit: Unit, wanted = 5): number[] {
  if (!(high > low)) return [low]
  const size = unit === 'bytes' ? binaryUnit(high).size : 1
  const rough = (high - low) / size / wanted
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = (STEPS.find((factor) => factor * power >= rough) ?? 10) * power * size
  const ticks: number[] = []
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) ticks.push(at * step)
  return ticks
}
