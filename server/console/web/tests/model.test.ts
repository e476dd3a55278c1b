import { createApp, nextTick } from 'vue'
import { expect, it, vi } from 'vitest'
import type { TrainingRefusal } from '../src/api/types'
import { ALL, probabilityWords, refusalWords, reportWords, selectionWords } from '../src/format/model'
import { i18n, setLanguage } from '../src/i18n'
import ModelRow from '../src/parts/ModelRow.vue'
import TrainingRow from '../src/parts/TrainingRow.vue'
import { hosts, models, rules, trainings } from '../dev/data'
import { wordsOf } from './words'

const NOW = new Date('2026-08-03T20:00:00').getTime()
const HOUR = 3_600_000
const flat = (text: string) => text.replaceAll('\u00a0', ' ')
const [en, zh] = [wordsOf('en'), wordsOf('zh')]

it('a selection is told by the names that people know, and a host that is gone by its id', () => {
  const known = [{ id: 'a1', name: 'plant-3' }]
  expect(selectionWords(en, ALL, known)).toBe('all series of the rule')
  expect(selectionWords(zh, { ...ALL, component: 'MES', instance: '/data' }, known)).toBe('组件 MES，/data')
  expect(selectionWords(en, { ...ALL, host: 'a1' }, known)).toBe('host plant-3')
  expect(selectionWords(en, { ...ALL, host: 'b2' }, known)).toBe('host b2')
})

it('a report says what warnings were worth, and no lead where nothing was warned of', () => {
  const report = models(NOW)[0]!.trained!.report
  expect(flat(reportWords(en, report))).toBe('8 of 9 crossings warned of in time, 1 false warning; half of them 3 h 24 min or more ahead')
  expect(reportWords(zh, { ...report, warned: 0 })).toBe('9 次越限中及时预警 0 次，误报 1 次')
})

it('every refusal has a reason in both languages', () => {
  const report = models(NOW)[0]!.trained!.report
  const all: TrainingRefusal[] = [
    { refusal: 'bad_question' }, { refusal: 'bad_settings', said: 'x' }, { refusal: 'too_short', have_ms: HOUR, need_ms: 80 * HOUR },
    { refusal: 'too_few_crossings', chosen_on: 1, reported_on: 0 }, { refusal: 'no_better', default_report: report, best_report: report }, { refusal: 'cancelled' },
  ]
  for (const words of [en, zh]) expect(new Set(all.map((one) => refusalWords(words, one))).size).toBe(all.length)
  expect(flat(refusalWords(en, all[2]!))).toBe('the history is 1 h long, 3 d 8 h are needed')
})

it('a row of the calibration reaches to the next', () => {
  const rows = [{ from_probability: 0.6 }, { from_probability: 0.95 }]
  expect([probabilityWords(en, rows, 0), probabilityWords(en, rows, 1)]).toEqual(['60% to 95%', '95% or more'])
})

it('a model shows itself beside the default once it is opened, and a training why it came to nothing', async () => {
  setLanguage('en')
  vi.stubGlobal('fetch', vi.fn(async () => new Response(JSON.stringify(models(NOW)[0]))))
  const mount = (part: Parameters<typeof createApp>[0], props: Record<string, unknown>) => {
    const box = document.createElement('div')
    createApp(part, { rules, hosts: hosts(NOW), now_ms: NOW, ...props }).use(i18n).mount(box)
    return box
  }
  const box = mount(ModelRow, { model: models(NOW)[0]!.summary })
  expect(flat(box.textContent!)).toContain('in use for host plant-3')
  expect(box.querySelector('table')).toBeNull()
  const details = box.querySelector('details')!
  details.open = true
  details.dispatchEvent(new Event('toggle'))
  await vi.waitFor(async () => {
    await nextTick()
    expect(flat(box.querySelector('table')!.textContent!)).toContain('this model8/9189%3 h 24 min')
  })
  vi.unstubAllGlobals()
  const refused = mount(TrainingRow, { training: trainings(NOW)[1] })
  expect(refused.textContent).toContain('no model: crossings in the older part: 1, in the newest: 0; 3 and 2 are needed')
  expect(refused.querySelector('progress')).toBeNull()
  expect(mount(TrainingRow, { training: trainings(NOW)[0] }).querySelector('progress')!.getAttribute('value')).toBe('0.37')
})
