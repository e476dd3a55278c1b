/** A plot as traces and layout for Plotly, which shows unix milliseconds in local time. Pure: no page, no Plotly. */

import type { Plot } from '../api/types'
import type { Words } from '../i18n/words'
import { formatRange } from './time'
import { formatDrawn, niceTicks, rateOf } from './value'

export const INK = { line: '#1f5f8b', band: 'rgba(227,154,59,.22)', middle: '#b86b00', threshold: '#b3261e', grid: '#eceff0', text: '#55616e' }

/** A moment to point out, by a word. */
export type Mark = { at_ms: number; word: string }

type Point = { x: number; y: number | null; text: string }

/** From how far apart two neighbours do not belong together: a host may be sampled less often than the plot could show. */
function gapOf(plot: Plot): number {
  const apart = plot.points.slice(1).map(([at_ms], index) => at_ms - plot.points[index]![0]).sort((a, b) => a - b)
  return Math.max(plot.step_ms, apart[Math.floor(apart.length / 2)] ?? 0) * 2.5
}

/** Values as they are drawn, with a break where the distance between points shows a gap. */
export function drawnPoints(plot: Plot): Point[] {
  const { kind, unit } = plot.series
  const drawn: Point[] = []
  let last_ms: number | null = null
  const gap_ms = gapOf(plot)
  for (const [at_ms, value] of plot.points) {
    if (last_ms !== null && at_ms - last_ms > gap_ms) drawn.push({ x: last_ms + plot.step_ms, y: null, text: '' })
    const y = kind === 'increment' && plot.step_ms > 0 ? rateOf(value, unit, plot.step_ms) : value
    drawn.push({ x: at_ms, y, text: formatDrawn(y, kind, unit) })
    last_ms = at_ms
  }
  return drawn
}

/** The lowest and highest value to show: everything drawn and the threshold, with air, never below zero for what cannot be. */
export function valueSpan(plot: Plot, points: readonly Point[], from_ms: number, to_ms: number): [number, number] {
  const values = points.flatMap((point) => (point.y !== null && point.x >= from_ms ? [point.y] : []))
  const share = plot.series.unit === 'ratio' && values.every((value) => value <= 1)
  for (const point of plot.band) if (point.t_ms <= to_ms) values.push(point.low, point.high)
  if (values.length === 0) values.push(0, 1)
  let low = Math.min(...values)
  let high = Math.max(...values)
  const { threshold } = plot
  // A threshold that is far away would flatten what there is to see; it is shown when a forecast speaks of it.
  if (threshold != null && (plot.forecast?.state.is === 'warning' || plot.forecast?.state.is === 'breached' || threshold - high < (high - low) * 3 || plot.series.unit === 'ratio')) {
    low = Math.min(low, threshold)
    high = Math.max(high, threshold)
  }
  const least = plot.series.unit === 'ratio' ? 0.02 : Math.max(Math.abs(high) * 0.02, 1e-9)
  const air = Math.max((high - low) * 0.1, least)
  const floor = low >= 0 ? Math.max(0, low - air) : low - air
  // What has never been more than all of it cannot be drawn as more.
  const ceiling = share ? Math.min(1.03, high + air) : high + air
  // What starts near zero starts at zero.
  return [floor < ceiling * 0.25 && low >= 0 ? 0 : floor, ceiling]
}

export function figure(words: Words, plot: Plot, span: { from_ms: number; to_ms: number; now_ms: number; marks?: readonly Mark[] }, narrow: boolean) {
  const { kind, unit } = plot.series
  const points = drawnPoints(plot)
  const [low, high] = valueSpan(plot, points, span.from_ms, span.to_ms)
  // A label on the very edge would run into those of the other axis.
  const ticks = niceTicks(low, high, unit, narrow ? 4 : 5).filter((tick) => tick === 0 || tick > low + (high - low) * 0.04)
  const band = plot.band.filter((point) => point.t_ms <= span.to_ms)
  const bandX = band.map((point) => point.t_ms)
  const show = (value: number) => formatDrawn(value, kind, unit)
  const hover = (name: string) => `%{text}<extra>${name}</extra>`

  const data: Record<string, unknown>[] = []
  if (band.length > 0) {
    const edge = { x: bandX, mode: 'lines', line: { width: 0 }, hoverinfo: 'skip', type: 'scatter' }
    data.push({ ...edge, y: band.map((point) => point.low) })
    data.push({ ...edge, y: band.map((point) => point.high), fill: 'tonexty', fillcolor: INK.band })
    data.push({
      type: 'scatter', mode: 'lines', x: bandX, y: band.map((point) => point.mid), line: { color: INK.middle, width: 1.5, dash: 'dot' },
      text: band.map((point) => `${show(point.mid)} (${show(point.low)} – ${show(point.high)})`), hovertemplate: hover(words.t('plot.middle')),
    })
  }
  data.push({
    type: 'scatter', mode: points.length === 1 ? 'markers' : 'lines', x: points.map((point) => point.x), y: points.map((point) => point.y), text: points.map((point) => point.text),
    line: { color: INK.line, width: 1.6, shape: unit === 'count' && kind === 'gauge' ? 'hv' : 'linear' }, connectgaps: false, hovertemplate: hover(words.t('plot.history')),
  })

  const shapes: Record<string, unknown>[] = []
  const annotations: Record<string, unknown>[] = []
  const label = { xref: 'paper', yref: 'paper', showarrow: false, font: { size: 11 } }
  if (plot.threshold != null && plot.threshold <= high && plot.threshold >= low) {
    shapes.push({ type: 'line', xref: 'paper', x0: 0, x1: 1, y0: plot.threshold, y1: plot.threshold, line: { color: INK.threshold, width: 1.2, dash: 'dash' } })
    annotations.push({ ...label, x: 0.004, xanchor: 'left', yref: 'y', y: plot.threshold, yanchor: 'bottom', text: words.t('plot.threshold', { value: show(plot.threshold) }), font: { size: 11, color: INK.threshold } })
  }
  const state = plot.forecast?.state
  if (state?.is === 'warning' && state.earliest_ms < span.to_ms) {
    const [x0, x1] = [state.earliest_ms, Math.min(state.latest_ms, span.to_ms)]
    shapes.push({ type: 'rect', xref: 'x', yref: 'paper', x0, x1, y0: 0, y1: 1, fillcolor: 'rgba(179,38,30,.07)', line: { width: 0 }, layer: 'below' })
    for (const x of [x0, x1]) shapes.push({ type: 'line', xref: 'x', yref: 'paper', x0: x, x1: x, y0: 0, y1: 1, line: { color: 'rgba(179,38,30,.45)', width: 1 }, layer: 'below' })
    annotations.push({
      ...label, xref: 'x', x: x0, xanchor: 'right', y: 1, yanchor: 'top', font: { size: 11, color: INK.threshold }, bgcolor: 'rgba(255,255,255,.75)',
      text: `${narrow ? '' : `${words.t('plot.crossing')} `}${formatRange(state.earliest_ms, state.latest_ms, span.now_ms, words.language)}`,
    })
  }
  for (const { at_ms, word } of span.marks ?? []) {
    shapes.push({ type: 'line', xref: 'x', yref: 'paper', x0: at_ms, x1: at_ms, y0: 0, y1: 1, line: { color: INK.text, width: 1, dash: 'dot' } })
    annotations.push({ ...label, xref: 'x', x: at_ms, xanchor: 'left', y: 0, yanchor: 'bottom', font: { size: 11, color: INK.text }, bgcolor: 'rgba(255,255,255,.75)', text: word })
  }
  if (span.now_ms < span.to_ms) {
    shapes.push({ type: 'line', xref: 'x', yref: 'paper', x0: span.now_ms, x1: span.now_ms, y0: 0, y1: 1, line: { color: '#a9b2ba', width: 1 }, layer: 'below' })
  }

  const axis = { gridcolor: INK.grid, zeroline: false, tickfont: { size: 11, color: INK.text }, fixedrange: false, automargin: true }
  const layout = {
    autosize: true, margin: { l: 8, r: 10, t: 8, b: 8 }, showlegend: false, hovermode: 'x unified', dragmode: narrow ? false : 'zoom',
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: { family: 'inherit', size: 12, color: '#1d2733' },
    hoverlabel: { bgcolor: '#fff', bordercolor: '#d5dadd', font: { size: 12 } }, shapes, annotations,
    xaxis: {
      ...axis, type: 'date', range: [span.from_ms, span.to_ms], nticks: narrow ? 4 : 8, hoverformat: '%m-%d %H:%M:%S', showspikes: false,
      tickformatstops: [
        { dtickrange: [null, 59_999], value: '%H:%M:%S' },
        { dtickrange: [60_000, 86_399_999], value: '%H:%M\n%m-%d' },
        { dtickrange: [86_400_000, null], value: '%m-%d' },
      ],
    },
    yaxis: { ...axis, fixedrange: true, range: [low, high], tickmode: 'array', tickvals: ticks, ticktext: ticks.map(show), hoverformat: '.4g' },
  }
  return { data, layout, count: plot.points.length }
}
