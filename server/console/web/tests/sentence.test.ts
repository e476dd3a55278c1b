import { describe, expect, it } from 'vitest'
import type { Because, Forecast, HostSummary, Incident, Outlook, Overview, Rule } from '../src/api/types'
import { conditionWords, headline, hostState, incidentTitle, named, outlookWords, reasonsWords, ruleName, subject } from '../src/format/sentence'
import { wordsOf } from './words'

const [zh, en] = [wordsOf('zh'), wordsOf('en')]
const NOW = new Date('2026-08-03T20:00:00').getTime()
const HOUR = 3_600_000
const clock = (text: string) => new Date(`2026-08-03T${text}:00`).getTime()

const forecast = (state: Forecast['state'], rest: Partial<Forecast> = {}): Forecast => ({ state, warned: false, probability: 0.9, at_ms: NOW, value: 0.914, threshold: 0.9, horizon_ms: 24 * HOUR, reasons: [], band: [], ...rest })
const warning = forecast({ is: 'warning', probability: 0.93, earliest_ms: clock('21:10'), likely_ms: clock('22:20'), latest_ms: clock('23:40') })
const outlook = (answer: Forecast, rest: Partial<Outlook> = {}): Outlook => ({ rule: 'disk', entity: 'e', entity_name: 'plant-3', metric: 'fs_used_ratio', instance: '/data', model: null, forecast: answer, ...rest })
const host = (rest: Partial<HostSummary>): HostSummary => ({ id: 'h', name: 'plant-3', component: '', seen_ms: NOW, silent: false, skew_ms: 0, agent_version: '0.1.0', containers: 0, series_asked: 4, series_judged: 4, incidents: 0, alarms: 0, ...rest })
const incident = (rest: Partial<Incident>, evidence: Partial<Incident['evidence']> = {}): Incident => ({
  id: 'i', rule: 'disk', host: 'h', entity: 'e', instance: '/data', kind: 'warning', state: 'firing', severity: 'warning', opened_ms: NOW, updated_ms: NOW, deliveries: [], ...rest,
  evidence: { host_name: 'plant-3', entity_name: 'plant-3', component: '', held_ms: 0, ended: null, value_ms: null, under_since_ms: null, hits: 0, lines: [], events: [], last_ms: NOW, ...evidence },
})
const overview = (hosts: HostSummary[]): Overview => ({ now_ms: NOW, hosts, incidents: [], sending: true })

describe('outlooks', () => {
  it('a warning names a range of times, in both languages', () => {
    expect(outlookWords(en, outlook(warning), NOW)).toBe('Disk /data reaches 90% between 21:10 and 23:40')
    expect(outlookWords(zh, outlook(warning), NOW)).toBe('磁盘 /data 预计在 21:10–23:40 之间达到 90%')
  })

  it('a range over midnight names the day', () => {
    const late = forecast({ is: 'warning', probability: 0.8, earliest_ms: clock('23:10'), likely_ms: NOW, latest_ms: clock('23:10') + 2 * HOUR })
    expect(outlookWords(en, outlook(late), NOW)).toBe('Disk /data reaches 90% between 23:10 and tomorrow 01:10')
  })

  it('what is over its threshold is never called stable', () => {
    expect(outlookWords(zh, outlook(forecast({ is: 'breached' })), NOW)).toBe('磁盘 /data 当前为 91.4%，已超过阈值 90%')
  })

  it('what is likely to cross is never called stable, though it is not confirmed', () => {
    const likely = { ...forecast({ is: 'stable' }), probability: 0.97 }
    expect(outlookWords(en, outlook(likely), NOW)).toMatch(/^Disk \/data: 97% to reach 90% within .+, not confirmed yet$/)
    expect(outlookWords(zh, outlook(likely), NOW)).toMatch(/^磁盘 \/data ?在未来 .+内达到 90% 的概率为 97%，尚待确认$/)
    expect(outlookWords(en, outlook({ ...likely, probability: 0.4 }), NOW)).toContain('stays below')
  })

  it('no forecast says what is missing', () => {
    const none = (reason: Extract<Forecast['state'], { is: 'no_forecast' }>['reason']) => outlookWords(en, outlook(forecast({ is: 'no_forecast', reason })), NOW)
    expect(none({ reason: 'too_short', have_ms: 2 * HOUR, need_ms: 6 * HOUR })).toBe('Disk /data: no forecast, its history is 2 h long, 6 h are needed')
    expect(none({ reason: 'too_many_gaps', missing_ratio: 0.4, limit_ratio: 0.2 })).toContain('40%')
    expect(none({ reason: 'stale', age_ms: HOUR, limit_ms: 1 })).toContain('1 h')
    expect(none({ reason: 'from_a_newer_server' } as never)).toContain('not known')
  })

  it('a container is named as the owner', () => {
    expect(subject(zh, { metric: 'mem_used_ratio', instance: '' }, 'mysql')).toBe('mysql 的内存')
    expect(subject(en, { metric: 'queue_depth', instance: 'q1' })).toBe('queue_depth · q1')
  })
})

describe('reasons', () => {
  it('are one sentence of the most telling ones', () => {
    const reasons: Because[] = [
      { because: 'trend', window_ms: 6 * HOUR, slope_per_hour: 0.0105, probability: 0.9 },
      { because: 'reset', age_ms: 14 * HOUR },
      { because: 'record', crossed_ratio: 0.93, horizons: 14 },
      { because: 'sawtooth', period_ms: HOUR, top: 0.5 },
    ]
    expect(reasonsWords(zh, { ...warning, reasons }, 'ratio')).toBe('最近 6 小时平均每小时上升 1.05%；它在 14 小时前回落过，趋势只从那时算起；从它自身历史上的相似时刻出发，有 93% 会越过阈值。')
    expect(reasonsWords(en, { ...warning, reasons }, 'ratio')).toMatch(/^It has risen by 1\.05% an hour over the last 6 h; .*crossed from here\.$/)
  })

  it('every reason that the server may give has words in both languages', () => {
    const every: Because[] = [
      ...(['level', 'rise', 'drift'] as const).map((carry): Because => ({ because: 'expert', expert: { expert: 'season', days: carry === 'level' ? 1 : 7, carry }, weight_ratio: 1, expects: 0.5 })),
      ...([{ expert: 'hold' }, { expert: 'trend', window: 72, half: false }, { expert: 'trend', window: 72, half: true }, { expert: 'long_trend' }, { expert: 'envelope', window: 288 }] as const).map((expert): Because => ({ because: 'expert', expert, weight_ratio: 1, expects: 0.5 })),
      { because: 'record', crossed_ratio: 0.1, horizons: 3 }, { because: 'sawtooth', period_ms: HOUR, top: 0.8 }, { because: 'reset', age_ms: HOUR }, { because: 'decomposition', probability: 0.5, age_ms: HOUR },
      ...[0.01, -0.01, 0].map((slope_per_hour): Because => ({ because: 'trend', window_ms: HOUR, slope_per_hour, probability: 0.5 })),
    ]
    for (const words of [zh, en]) {
      const said = every.map((because) => reasonsWords(words, { ...warning, reasons: [because] }, 'ratio'))
      for (const sentence of said) expect(sentence).toMatch(/^\S.+[.。]$/)
      expect(new Set(said).size).toBe(every.length - 1) // the two seasons of seven days ago read alike
    }
  })

  it('of a share no more than all is expected, of other things any number', () => {
    const reasons: Because[] = [{ because: 'expert', expert: { expert: 'long_trend' }, weight_ratio: 1, expects: 1.375 }, { because: 'sawtooth', period_ms: HOUR, top: 1.05 }]
    expect(reasonsWords(en, { ...warning, reasons }, 'ratio')).toBe('Its long trend leads to 100%; it comes down by itself about every 1 h, and its next peak is granted at most 100%.')
    expect(reasonsWords(en, { ...warning, reasons, threshold: 1.2 }, 'ratio')).toContain('leads to 120%')
    expect(reasonsWords(en, { ...warning, reasons: [{ ...reasons[0]!, expects: 1375 } as Because] }, 'count')).toContain('1375')
  })

  it('a reason that a newer server gives is left out', () => {
    expect(reasonsWords(en, { ...warning, reasons: [{ because: 'moon_phase' } as never] }, 'ratio')).toBe('')
  })
})

describe('the line on top', () => {
  it('says in words how many hosts will run out of what, and by when', () => {
    const calm = ['a', 'b', 'c'].map((id) => host({ id, name: id }))
    const site = overview([host({ outlook: outlook(warning) }), ...calm])
    expect(headline(en, site)).toEqual({ state: 'warning', text: '1 of 4 hosts will run out of disk within 4 h.' })
    expect(headline(zh, site).text).toBe('4 台主机中有 1 台将在 4 小时内用尽磁盘空间。')
  })

  it('is calm when nothing is expected', () => {
    expect(headline(en, overview([host({})])).text).toContain('only host is calm')
    expect(headline(zh, overview([host({}), host({ id: 'b' })])).text).toBe('全部 2 台主机运行平稳，预计不会有指标越过阈值。')
  })

  it('a host that is not heard of is never calm', () => {
    const site = overview([host({ silent: true, outlook: outlook(warning) }), host({ id: 'b' })])
    expect(headline(en, site)).toEqual({ state: 'silent', text: '1 of 2 hosts is silent.' })
  })

  it('an alarm does not hide what is still to come', () => {
    const site = overview([host({ outlook: outlook(warning), incidents: 1, alarms: 1 })])
    expect(headline(en, site)).toEqual({ state: 'alarm', text: 'plant-3 is in alarm; it will run out of disk within 4 h.' })
  })

  it('an open incident without a forecast shows', () => {
    expect(headline(en, overview([host({ incidents: 1 })])).text).toBe('plant-3 has an open incident.')
  })

  it('a host is as bad as the worst of it', () => {
    expect(hostState(host({}))).toBe('calm')
    expect(hostState(host({ skew_ms: -400_000 }))).toBe('clock')
    expect(hostState(host({ skew_ms: -400_000, incidents: 2 }))).toBe('warning')
    expect(hostState(host({ incidents: 2, alarms: 1 }))).toBe('alarm')
    expect(hostState(host({ incidents: 2, alarms: 1, silent: true }))).toBe('silent')
  })
})

describe('incidents', () => {
  it('a warning tells when, an alarm tells how much', () => {
    const level = { metric: 'fs_used_ratio', threshold: 0.9, value: 0.914, forecast: warning }
    expect(incidentTitle(en, incident({}, level), NOW)).toBe('Disk /data will reach 90% between 21:10 and 23:40')
    expect(incidentTitle(zh, incident({ kind: 'alarm' }, level), NOW)).toBe('磁盘 /data 当前为 91.4%，已超过 90%')
    expect(incidentTitle(en, incident({ kind: 'alarm', state: 'resolved' }, level), NOW)).toBe('Disk /data was over 90%')
  })

  it('each default rule has a title, and an unknown one keeps its name', () => {
    const titles = ['keyword', 'host_silent', 'container_died', 'container_oom', 'restart_loop', 'unhealthy'].map((rule) => incidentTitle(zh, incident({ rule, instance: '' }, { entity_name: 'mysql', keyword: rule === 'keyword' ? 'out_of_memory' : null, events: [{ at_ms: 0, kind: 'die', code: 137 }] }), NOW))
    expect(titles).toEqual(['mysql 的日志出现“内存溢出”', '主机 plant-3 失联', '容器 mysql 异常退出，退出码 137', '容器 mysql 内存不足，进程被内核终止', '容器 mysql 反复重启', '容器 mysql 健康检查失败'])
    expect(incidentTitle(en, incident({ rule: 'my_rule' }, { entity_name: 'mysql' }), NOW)).toBe('my_rule: mysql')
  })
})

describe('rules', () => {
  it('keep the name that somebody gave them', () => {
    expect(ruleName(zh, { id: 'disk', name: '' })).toBe('磁盘将满')
    expect(ruleName(zh, { id: 'disk', name: 'D 盘' })).toBe('D 盘')
    expect(ruleName(zh, { id: 'own', name: '' })).toBe('own')
    expect(named(en, 'keyword', 'plc_offline')).toBe('plc_offline')
    expect(named(en, 'keyword', 'weird name.with {braces}')).toBe('weird name.with {braces}')
  })

  it('say what they look at', () => {
    const conditions: [Rule['condition'], string][] = [
      [{ type: 'threshold', metric: 'fs_used_ratio', entity_kind: 'host', threshold: 0.9, horizon_ms: 1, for_ms: 120_000 }, '主机：磁盘使用率；持续超过 2 分钟即告警'],
      [{ type: 'host_silent', after_ms: 180_000 }, '主机超过 3 分钟没有上报'],
      [{ type: 'restart_loop', restarts: 3, within_ms: 600_000 }, '容器在 10 分钟内重启 3 次'],
      [{ type: 'from_a_newer_server' } as never, '本页面不认识的条件'],
    ]
    for (const [condition, text] of conditions) expect(conditionWords(zh, condition)).toBe(text)
  })
})
