/** The spans that plots may show. Pure. */

import type { Forecast, Incident } from '../api/types'

const HOUR_MS = 3_600_000

export const RANGES = { '1h': HOUR_MS, '6h': 6 * HOUR_MS, '24h': 24 * HOUR_MS, '7d': 168 * HOUR_MS } as const
export type Range = keyof typeof RANGES

/** A span to plot. Without an end it goes on to now, and as far ahead as the forecast speaks. */
export type PlotSpan = { from_ms: number; to_ms: number | null }

/** The hours before an incident and all of it; of one that is over, some time after it too. */
export function incidentSpan(incident: Incident): PlotSpan {
  const from_ms = incident.opened_ms - 6 * HOUR_MS
  if (incident.resolved_ms == null) return { from_ms, to_ms: null }
  return { from_ms, to_ms: incident.resolved_ms + Math.max(HOUR_MS, (incident.resolved_ms - from_ms) / 8) }
}

/** Where a plot ends that shows `span_ms` of history: past the last crossing time, but at most four times as far ahead as back. */
export function plotEnd(forecast: Forecast | null | undefined, now_ms: number, span_ms: number): number {
  const state = forecast?.state
  if (!forecast || !state || state.is === 'no_forecast') return now_ms
  const horizon = forecast.at_ms + forecast.horizon_ms
  const little = now_ms + span_ms * 0.35
  if (state.is !== 'warning') return Math.min(horizon, little)
  const crossed = state.latest_ms + (state.latest_ms - now_ms) * 0.15
  return Math.min(horizon, Math.max(crossed, little), now_ms + span_ms * 4)
}
