import { createApp, nextTick, type Component } from 'vue'
import { createMemoryHistory, createRouter } from 'vue-router'
import { afterEach, expect, it, vi } from 'vitest'
import type { Incident } from '../src/api/types'
import { figure } from '../src/format/figure'
import { i18n, setLanguage } from '../src/i18n'
import IncidentRow from '../src/parts/IncidentRow.vue'
import ShareBar from '../src/parts/ShareBar.vue'
import SwitchButton from '../src/parts/SwitchButton.vue'
import { plot } from '../dev/data'
import { wordsOf } from './words'

let unmount = () => {}
afterEach(() => unmount())

function mount(part: Component, props: Record<string, unknown>): HTMLElement {
  const box = document.createElement('div')
  const router = createRouter({ history: createMemoryHistory(), routes: ['', 'host', 'incident'].map((name) => ({ name: name || 'first', path: name ? `/${name}/:${name}` : '/', component: {} })) })
  const app = createApp(part, props).use(i18n).use(router)
  app.mount(box)
  unmount = () => app.unmount()
  return box
}

it('a switch says whether it is on, and asks for the other state', async () => {
  const onFlip = vi.fn()
  const box = mount(SwitchButton, { on: true, label: 'Send', onFlip, 'data-testid': 'rule-send-disk' })
  const button = box.querySelector<HTMLButtonElement>('[data-testid=rule-send-disk]')!
  expect([button.getAttribute('role'), button.getAttribute('aria-checked'), button.getAttribute('aria-label')]).toEqual(['switch', 'true', 'Send'])
  button.click()
  await nextTick()
  expect(onFlip).toHaveBeenCalledWith(false)
})

it('a share that is not known is not drawn as zero', () => {
  const box = mount(ShareBar, { ratio: null, label: 'CPU' })
  expect(box.textContent).toBe('–')
  expect(box.querySelector('[role=meter]')).toBeNull()
})

it('what a log says is shown as text, whatever it says', async () => {
  const hostile = '<img src=x onerror="alert(1)"><script>alert(2)</script>\u202e'
  const incident: Incident = {
    id: 'i', rule: 'keyword', host: 'h', entity: 'e', instance: 'crash', kind: 'alarm', state: 'firing', severity: 'critical', opened_ms: 0, updated_ms: 0,
    evidence: { host_name: hostile, entity_name: `c${hostile}`, component: hostile, keyword: hostile, held_ms: 0, ended: null, value_ms: null, under_since_ms: null, hits: 1, lines: [{ at_ms: 0, line: hostile, before: [hostile], after: [hostile] }], events: [], last_ms: 0 },
    deliveries: [{ id: 'd', channel: 'c', channel_name: hostile, transition: 'alarmed', state: 'failed', attempts: 1, created_ms: 0, answer: hostile }],
  }
  for (const language of ['zh', 'en'] as const) {
    setLanguage(language)
    const box = mount(IncidentRow, { incident, now_ms: 0 })
    await nextTick()
    expect(box.querySelector('img, script')).toBeNull()
    expect(box.querySelector('[data-testid=evidence-line] mark')!.textContent).toContain('<script>alert(2)</script>')
    expect(box.querySelector('[data-testid=evidence-line]')!.textContent).not.toContain('\u202e')
    expect(box.querySelector('[data-testid=delivery]')!.getAttribute('data-state')).toBe('failed')
    unmount()
  }
})

it('a plot has the threshold, the band, the range of the crossing, and a break where values are missing', () => {
  const now = 1_780_000_000_000
  const query = new URLSearchParams({ entity: 'e1', metric: 'fs_used_ratio', instance: '/data', from_ms: String(now - 6 * 3_600_000), to_ms: String(now), points: '360' })
  const shown = plot(query, now)!
  const { data, layout } = figure(wordsOf('zh'), shown, { from_ms: now - 6 * 3_600_000, to_ms: now + 9 * 3_600_000, now_ms: now }, false)
  expect(data).toHaveLength(4)
  expect((data[3]!.y as (number | null)[]).filter((value) => value === null)).toHaveLength(1)
  expect(layout.annotations.map((note) => note.text)).toEqual(['阈值 90%', expect.stringMatching(/^预计越过 .*\d\d:\d\d/)])
  expect(layout.shapes.filter((shape) => shape.type === 'rect')).toHaveLength(1)
  const [low, high] = layout.yaxis.range as [number, number]
  expect(low).toBeGreaterThanOrEqual(0)
  expect(high).toBeGreaterThan(0.9)
  expect(high).toBeLessThanOrEqual(1.03)
})

it('moments are pointed out by their words', () => {
  const empty = { ...plot(new URLSearchParams({ entity: 'e1', metric: 'load_1m', from_ms: '0', to_ms: '0' }), 0)!, points: [], band: [], threshold: null, forecast: null }
  const { layout } = figure(wordsOf('en'), empty, { from_ms: 0, to_ms: 1000, now_ms: 1000, marks: [{ at_ms: 400, word: 'told' }] }, true)
  expect(layout.annotations).toEqual([expect.objectContaining({ x: 400, text: 'told' })])
  expect(layout.shapes).toEqual([expect.objectContaining({ x0: 400, x1: 400 })])
})

it('a plot without points is still a plot', () => {
  const empty = { ...plot(new URLSearchParams({ entity: 'e1', metric: 'load_1m', from_ms: '0', to_ms: '0' }), 0)!, points: [], band: [], threshold: null, forecast: null }
  const { data, layout } = figure(wordsOf('en'), empty, { from_ms: 0, to_ms: 1000, now_ms: 1000 }, true)
  expect(data).toHaveLength(1)
  expect(layout.shapes).toEqual([])
})
