/** An invented site for development: four hosts, one of which is about to run out of disk. */

import type {
  BandPoint, Channel, Delivery, Forecast, HostDetail, HostSummary, Incident, Keywords, ModelDetail, Outlook, Plot, Rule, SeriesView, Training, Workload,
} from '../src/api/types'

const MINUTE = 60_000
const HOUR = 60 * MINUTE

type Shape = (at_ms: number, now_ms: number) => number

const noise = (at_ms: number, salt: number) => (Math.sin(at_ms / 97_013 + salt) + Math.sin(at_ms / 31_771 + salt * 3) + Math.sin(at_ms / 613_337 + salt * 7)) / 3
const day: (at_ms: number) => number = (at_ms) => Math.sin(((at_ms / HOUR) % 24) / 24 * Math.PI * 2 - 2.2)

/** `/data` of plant-3 grows steadily since a deploy fourteen hours ago. */
const dataDisk: Shape = (at, now) => 0.832 + Math.max(-14, (at - now) / HOUR) * 0.0105 + noise(at, 2) * 0.0012
const SHAPES: Record<string, Shape> = {
  cpu_used_ratio: (at) => Math.max(0.02, 0.31 + day(at) * 0.14 + noise(at, 5) * 0.09),
  mem_used_ratio: (at) => 0.58 + day(at) * 0.05 + noise(at, 9) * 0.008,
  mem_used_bytes: (at) => (0.58 + day(at) * 0.05 + noise(at, 9) * 0.008) * 16 * 1024 ** 3,
  'fs_used_ratio /data': dataDisk,
  'fs_used_ratio /': (at) => 0.41 + noise(at, 1) * 0.002,
  'fs_used_ratio /var/log': (at) => 0.3 + (((at / HOUR) % 6) / 6) * 0.32,
  fs_inode_used_ratio: () => 0.12,
  net_rx_bytes: (at) => (2.4e6 + day(at) * 1.1e6 + noise(at, 3) * 6e5) * 10,
  load_1m: (at) => 1.8 + day(at) * 0.8 + noise(at, 4) * 0.7,
  log_hits: (at) => (noise(at, 6) > 0.72 ? 2 : 0),
  pressure_io_some_ratio: (at) => Math.max(0, 0.03 + noise(at, 8) * 0.04),
}

const PLANT3 = '3f9a1c77d2e84b06a5f1e2c09b7d4410'
const hostIds: Record<string, string> = { 'plant-3': PLANT3, 'plant-1': '1'.repeat(32), 'plant-2': '2'.repeat(32), 'edge-gw-07': '7'.repeat(32), 'mes-db-1': 'd'.repeat(32) }

function band(now: number, horizon: number, at: (ahead_h: number) => number, spread: number): BandPoint[] {
  return Array.from({ length: Math.floor(horizon / (15 * MINUTE)) + 1 }, (_, step) => {
    const ahead = (step * 15 * MINUTE) / HOUR
    const wide = spread * Math.sqrt(ahead + 0.1)
    return { t_ms: now + step * 15 * MINUTE, low: at(ahead) - wide, mid: at(ahead), high: at(ahead) + wide }
  })
}

const diskForecast = (now: number): Forecast => ({
  state: { is: 'warning', probability: 0.93, earliest_ms: now + 5.4 * HOUR, likely_ms: now + 6.5 * HOUR, latest_ms: now + 8.1 * HOUR },
  warned: true, probability: 0.93, at_ms: now - 2 * MINUTE, value: 0.832, threshold: 0.9, horizon_ms: 24 * HOUR, likely_ms: now + 6.5 * HOUR,
  reasons: [
    { because: 'trend', window_ms: 6 * HOUR, slope_per_hour: 0.0105, probability: 0.95 },
    { because: 'reset', age_ms: 14 * HOUR },
    { because: 'record', crossed_ratio: 0.93, horizons: 14 },
  ],
  band: [],
})
const stable = (now: number, value: number, threshold = 0.9, horizon_ms = 4 * HOUR): Forecast => ({ state: { is: 'stable' }, warned: false, probability: 0.02, at_ms: now, value, threshold, horizon_ms, likely_ms: null, reasons: [{ because: 'expert', expert: { expert: 'season', days: 1, carry: 'rise' }, weight_ratio: 0.6, expects: value + 0.05 }], band: [] })

const outlook = (name: string, rule: string, metric: string, instance: string, forecast: Forecast, entity = 'e1', entity_name = name): Outlook => ({ rule, entity, entity_name, metric, instance, model: null, forecast })

export function hosts(now: number): HostSummary[] {
  const host = (name: string, rest: Partial<HostSummary>): HostSummary => ({
    id: hostIds[name]!, name, component: 'MES', seen_ms: now - 8000, silent: false, skew_ms: 120, agent_version: '0.1.0', containers: 6, cpu_used_ratio: 0.22, mem_used_ratio: 0.44, disk: { instance: '/', used_ratio: 0.41 }, outlook: null, series_asked: 12, series_judged: 12, incidents: 0, alarms: 0, ...rest,
  })
  return [
    host('mes-db-1', { component: 'Database', containers: 2, cpu_used_ratio: 0.63, mem_used_ratio: 0.71, disk: { instance: '/var/lib/mysql', used_ratio: 0.914 }, incidents: 2, alarms: 2, outlook: outlook('mes-db-1', 'disk', 'fs_used_ratio', '/var/lib/mysql', { ...diskForecast(now), state: { is: 'breached' }, value: 0.914 }) }),
    host('plant-3', { containers: 9, cpu_used_ratio: 0.34, mem_used_ratio: 0.59, disk: { instance: '/data', used_ratio: 0.832 }, incidents: 2, alarms: 1, outlook: outlook('plant-3', 'disk', 'fs_used_ratio', '/data', diskForecast(now)) }),
    host('edge-gw-07', { component: '', containers: 3, silent: true, seen_ms: now - 47 * MINUTE, cpu_used_ratio: 0.08, mem_used_ratio: 0.31, disk: { instance: '/mnt/archive/2025/line-4', used_ratio: 0.55 }, incidents: 1, alarms: 1 }),
    host('plant-1', {}),
    host('plant-2', { skew_ms: -412_000, cpu_used_ratio: null, agent_version: '0.1.0' }),
  ]
}

const delivery = (id: string, channel_name: string, transition: Delivery['transition'], state: Delivery['state'], at: number, answer: string, attempts = 1): Delivery => ({ id, channel: 'c1', channel_name, transition, state, attempts, created_ms: at, done_ms: state === 'queued' ? null : at + 900, answer })

export function incidents(now: number): Incident[] {
  const base = { entity: 'e1', instance: '', state: 'firing', severity: 'warning', resolved_ms: null, fired_ms: null, deliveries: [] as Delivery[] } as const
  const evidence = (host_name: string, rest: Partial<Incident['evidence']>): Incident['evidence'] => ({ host_name, entity_name: host_name, component: 'MES', held_ms: 0, ended: null, value_ms: null, under_since_ms: null, hits: 0, lines: [], events: [], last_ms: now, ...rest })
  return [
    {
      ...base, id: 'i1', rule: 'disk', host: PLANT3, instance: '/data', kind: 'warning', opened_ms: now - 96 * MINUTE, fired_ms: now - 86 * MINUTE, updated_ms: now - 2 * MINUTE,
      evidence: evidence('plant-3', { metric: 'fs_used_ratio', value: 0.832, threshold: 0.9, forecast: diskForecast(now), digest: 'b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c' }),
      deliveries: [delivery('d1', '运维值班群', 'warned', 'sent', now - 86 * MINUTE, '{"errcode":0,"errmsg":"ok"}'), delivery('d2', 'HQ on call', 'warned', 'failed', now - 80 * MINUTE, '{"errcode":310000,"errmsg":"sign not match, more: [https://ding-doc.example/doc]"}', 6)],
    },
    {
      ...base, id: 'i2', rule: 'keyword', host: PLANT3, entity: 'e2', instance: 'out_of_memory', kind: 'alarm', severity: 'critical', opened_ms: now - 22 * MINUTE, fired_ms: now - 22 * MINUTE, updated_ms: now - 3 * MINUTE,
      evidence: evidence('plant-3', {
        entity_name: 'mes/order-service', keyword: 'out_of_memory', hits: 7,
        lines: [{
          at_ms: now - 3 * MINUTE, line: '2026-07-31 20:41:07.553 ERROR [http-nio-8080-exec-12] c.p.o.OrderController - java.lang.OutOfMemoryError: Java heap space <script>alert(1)</script>',
          before: ['2026-07-31 20:41:05.101 INFO  [scheduling-1] c.p.o.BatchJob - 批次 88213 开始，共 41 204 条', '2026-07-31 20:41:06.870 WARN  [http-nio-8080-exec-12] c.p.o.OrderController - 缓存未命中，改为全量加载 token=***'],
          after: ['\tat java.base/java.util.Arrays.copyOf(Arrays.java:3537)', '\tat com.plant.order.OrderCache.load(OrderCache.java:118)'],
        }],
      }),
      deliveries: [delivery('d3', '运维值班群', 'alarmed', 'sent', now - 22 * MINUTE, '{"errcode":0,"errmsg":"ok"}')],
    },
    { ...base, id: 'i3', rule: 'disk', host: hostIds['mes-db-1']!, instance: '/var/lib/mysql', kind: 'alarm', opened_ms: now - 9 * HOUR, fired_ms: now - 9 * HOUR, updated_ms: now, evidence: evidence('mes-db-1', { component: 'Database', metric: 'fs_used_ratio', value: 0.914, threshold: 0.9, over_since_ms: now - 40 * MINUTE }), deliveries: [delivery('d4', '运维值班群', 'alarmed', 'queued', now - 40 * MINUTE, '')] },
    { ...base, id: 'i4', rule: 'host_silent', host: hostIds['edge-gw-07']!, kind: 'alarm', severity: 'critical', opened_ms: now - 44 * MINUTE, fired_ms: now - 44 * MINUTE, updated_ms: now, evidence: evidence('edge-gw-07', {}), deliveries: [delivery('d5', '运维值班群', 'alarmed', 'muted', now - 44 * MINUTE, '')] },
    { ...base, id: 'i5', rule: 'container_died', host: hostIds['mes-db-1']!, entity: 'e9', kind: 'alarm', opened_ms: now - 3 * HOUR, fired_ms: now - 3 * HOUR, updated_ms: now, evidence: evidence('mes-db-1', { entity_name: 'backup', events: [{ at_ms: now - 3 * HOUR, kind: 'die', code: 137 }, { at_ms: now - 3 * HOUR - 400, kind: 'oom', code: 0 }] }) },
  ]
}

export function olderIncidents(now: number): Incident[] {
  return incidents(now).map((incident, at) => ({ ...incident, id: `old-${incident.id}`, state: 'resolved', opened_ms: incident.opened_ms - (26 + at * 9) * HOUR, fired_ms: (incident.fired_ms ?? 0) - 26 * HOUR, resolved_ms: incident.opened_ms - (24 + at * 9) * HOUR, evidence: { ...incident.evidence, ended: incident.kind === 'alarm' ? 'quiet' : 'withdrawn' } }))
}

const threshold = (id: string, metric: string, entity_kind: 'host' | 'workload', horizon_h: number): Rule => ({ id, name: '', enabled: true, send: true, severity: 'warning', condition: { type: 'threshold', metric, entity_kind, threshold: 0.9, horizon_ms: horizon_h * HOUR, for_ms: 2 * MINUTE } })
const other = (id: string, severity: Rule['severity'], condition: Rule['condition']): Rule => ({ id, name: '', enabled: id !== 'unhealthy', send: id !== 'cpu', severity, condition })

export const rules: Rule[] = [
  threshold('disk', 'fs_used_ratio', 'host', 24), threshold('inodes', 'fs_inode_used_ratio', 'host', 24), threshold('memory', 'mem_used_ratio', 'host', 4), threshold('cpu', 'cpu_used_ratio', 'host', 1), threshold('container_memory', 'mem_used_ratio', 'workload', 4),
  other('keyword', 'warning', { type: 'keyword', severity_min: 'warning', quiet_ms: 10 * MINUTE }), other('host_silent', 'critical', { type: 'host_silent', after_ms: 3 * MINUTE }), other('container_died', 'warning', { type: 'container_died' }), other('container_oom', 'critical', { type: 'container_oom' }), other('restart_loop', 'critical', { type: 'restart_loop', restarts: 3, within_ms: 10 * MINUTE }), other('unhealthy', 'warning', { type: 'unhealthy' }),
]

export const channels: Channel[] = [
  { id: 'c1', name: '运维值班群', kind: 'dingtalk', target: 'https://oapi.dingtalk.com:443', signed: true, language: 'zh', severity_min: 'warning', send: true, last: delivery('d3', '运维值班群', 'alarmed', 'sent', Date.now() - 22 * MINUTE, '{"errcode":0,"errmsg":"ok"}') },
  { id: 'c2', name: 'HQ on call', kind: 'dingtalk', target: 'https://oapi.dingtalk.com:443', signed: true, language: 'en', severity_min: 'critical', send: true, last: delivery('d2', 'HQ on call', 'warned', 'failed', Date.now() - 80 * MINUTE, '{"errcode":310000,"errmsg":"sign not match"}', 6) },
  { id: 'c3', name: '车间企业微信', kind: 'wecom', target: 'https://qyapi.weixin.qq.com:443', signed: false, language: 'zh', severity_min: 'info', send: false, last: null },
]

export const keywords: Keywords = {
  rules: [
    { name: 'out_of_memory', severity: 'critical', literals: ['java.lang.OutOfMemoryError', 'OutOfMemoryError', 'Out of memory', 'Cannot allocate memory', 'std::bad_alloc', '内存不足', '内存溢出'], regexes: [], ignore_case: false },
    { name: 'disk_full', severity: 'critical', literals: ['No space left on device', 'ENOSPC', '磁盘空间不足', '磁盘已满'], regexes: [], ignore_case: false },
    { name: 'database_timeout', severity: 'critical', literals: ['数据库连接超时', '连接池耗尽', 'Too many connections'], regexes: [], ignore_case: false },
    { name: 'plc_offline', severity: 'warning', literals: ['PLC 离线'], regexes: ['plc-\\d+ lost after \\d+ ms'], ignore_case: true },
    { name: 'timeout', severity: 'info', literals: ['timed out', 'deadline exceeded', '请求超时'], regexes: [], ignore_case: false },
  ],
}

const workload = (entity: string, name: string, image: string, running: boolean, cpu: number | null, mem: number | null, now: number): Workload => ({ entity, name, component: entity === 'e2' ? 'Orders' : '', attributes: [{ key: 'image', value: image }, { key: 'container_id', value: 'a1b2c3d4e5f6' }], running, cpu_used_ratio: cpu, mem_used_ratio: mem, updated_ms: now - 20_000 })

export function series(): SeriesView[] {
  const one = (metric: string, instance = '', unit: SeriesView['unit'] = 'ratio', kind: SeriesView['kind'] = 'gauge', entity = 'e1', entity_name = 'plant-3'): SeriesView => ({ entity, entity_kind: entity === 'e1' ? 'host' : 'workload', entity_name, metric, instance, kind, unit })
  return [
    one('cpu_used_ratio'), one('load_1m', '', 'count'), one('mem_used_ratio'), one('mem_used_bytes', '', 'bytes'), one('fs_used_ratio', '/data'), one('fs_used_ratio', '/'), one('fs_used_ratio', '/var/log'), one('fs_inode_used_ratio', '/data'), one('net_rx_bytes', 'eth0', 'bytes', 'increment'), one('pressure_io_some_ratio'),
    one('cpu_used_ratio', '', 'ratio', 'gauge', 'e2', 'mes/order-service'), one('mem_used_ratio', '', 'ratio', 'gauge', 'e2', 'mes/order-service'), one('log_hits', 'out_of_memory', 'count', 'increment', 'e2', 'mes/order-service'),
  ]
}

export function detail(id: string, now: number): HostDetail | null {
  const summary = hosts(now).find((host) => host.id === id)
  if (!summary) return null
  const own = (one: Outlook) => (summary.name === 'plant-3' ? one : { ...one, entity_name: one.entity_name === 'plant-3' ? summary.name : one.entity_name })
  const outlooks = [
    ...(summary.outlook ? [summary.outlook] : []),
    own(outlook('plant-3', 'disk', 'fs_used_ratio', '/', stable(now, 0.41, 0.9, 24 * HOUR))), own(outlook('plant-3', 'memory', 'mem_used_ratio', '', stable(now, 0.59))), own(outlook('plant-3', 'cpu', 'cpu_used_ratio', '', stable(now, 0.34, 0.9, HOUR))),
    outlook('plant-3', 'container_memory', 'mem_used_ratio', '', stable(now, 0.77), 'e2', 'mes/order-service'),
    own(outlook('plant-3', 'disk', 'fs_used_ratio', '/var/log', { ...stable(now, 0.46), state: { is: 'no_forecast', reason: { reason: 'too_short', have_ms: 2.2 * HOUR, need_ms: 6 * HOUR } } })),
  ]
  return {
    summary, enrolled_ms: now - 63 * 24 * HOUR,
    attributes: [{ key: 'os', value: 'openEuler 22.03 LTS SP3' }, { key: 'kernel', value: '5.10.0-182.0.0.95.oe2203sp3.x86_64' }, { key: 'cpu', value: 'Hygon C86 7285 32-core' }, { key: 'arch', value: 'x86_64' }, { key: 'agent', value: '0.1.0' }, { key: 'site', value: 'Hall 3' }],
    workloads: [workload('e2', 'mes/order-service', 'registry.site/mes/order-service:4.18.2', true, 0.41, 0.77, now), workload('e3', 'mes/mysql', 'mysql:8.0.36', true, 0.12, 0.64, now), workload('e4', 'mes/redis', 'redis:7.2-alpine', true, 0.02, null, now), workload('e5', 'mes/report-worker', 'registry.site/mes/report:4.18.2', false, null, null, now)],
    outlooks, series: series().map((one) => (one.entity === 'e1' ? { ...one, entity_name: summary.name } : one)), incidents: [...incidents(now), ...olderIncidents(now)].filter((incident) => incident.host === id),
  }
}

export function plot(query: URLSearchParams, now: number): Plot | null {
  const [entity, metric, instance] = ['entity', 'metric', 'instance'].map((name) => query.get(name) ?? '') as [string, string, string]
  const from = Number(query.get('from_ms'))
  const to = Number(query.get('to_ms'))
  const known = series().find((one) => one.entity === entity && one.metric === metric && one.instance === instance) ?? { ...series()[0]!, entity, metric, instance }
  const shape = SHAPES[`${metric} ${instance}`] ?? SHAPES[metric] ?? (metric === 'fs_used_ratio' ? (at: number) => dataDisk(at, now) + 0.082 : () => 0.5)
  const step = Math.max(10_000, Math.ceil((to - from) / Number(query.get('points') ?? 300) / 10_000) * 10_000)
  const points: [number, number][] = []
  // Nobody heard of the host for a while: a gap.
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) if (at < now - 3.2 * HOUR || at > now - 2.9 * HOUR) points.push([at, shape(at, now)])
  const warned = metric === 'fs_used_ratio' && instance === '/data'
  const watched = ['fs_used_ratio', 'mem_used_ratio', 'cpu_used_ratio'].includes(metric)
  const forecast = warned ? diskForecast(now) : watched ? stable(now, shape(now, now)) : null
  const course = warned ? band(now - 2 * MINUTE, 24 * HOUR, (ahead) => 0.832 + ahead * 0.0105, 0.006) : watched ? band(now, 4 * HOUR, (ahead) => shape(now + ahead * HOUR, now), 0.02) : []
  return { series: known, step_ms: step, points, threshold: watched ? 0.9 : null, rule: watched ? 'disk' : null, forecast, band: course }
}

const report = (warned: number, false_warnings: number, lead_ms: number) => ({ crossings: 9, warned, false_warnings, false_per_week: false_warnings / 3, lead_ms, precision: warned / (warned + false_warnings), recall: warned / 9, f05: 0.9 - false_warnings * 0.06, brier: 0.03 })

export function models(now: number): ModelDetail[] {
  const own = report(8, 1, 3.4 * HOUR)
  return [{
    summary: {
      id: 'm1', name: 'nightly batch', rule: 'memory', created_ms: now - 26 * HOUR, report: own, unusable: null,
      adoptions: [{ id: 'a1', model: 'm1', rule: 'memory', selection: { host: PLANT3, component: null, entity: null, instance: null }, adopted_ms: now - 25 * HOUR }],
    },
    trained: {
      version: 1, settings: {} as never, variants: ['short_memory', 'patient'], threshold: 0.9, horizon_ms: 4 * HOUR, series: 3, from_ms: now - 30 * 24 * HOUR, split_ms: now - 12 * 24 * HOUR, to_ms: now - 26 * HOUR, crossings_chosen_on: 14, report: own, default_report: report(6, 3, 2.1 * HOUR),
      time_error: [{ ahead_ms: HOUR, factor: 1.2, moments: 31 }, { ahead_ms: 2 * HOUR, factor: 1.46, moments: 22 }, { ahead_ms: 5 * HOUR, factor: null, moments: 0 }],
      calibration: [{ from_probability: 0.6, came_true_ratio: 0.71, moments: 45 }, { from_probability: 0.8, came_true_ratio: 0.92, moments: 60 }, { from_probability: 0.95, came_true_ratio: null, moments: 0 }],
    },
  }]
}

export function trainings(now: number): Training[] {
  const all = { host: null, component: null, entity: null, instance: null }
  return [
    { id: 't3', name: 'disks of MES', rule: 'disk', selection: { ...all, component: 'MES', instance: '/data' }, started_ms: now - 40_000, progress_ratio: 0.37, series: 12, outcome: { is: 'running' } },
    { id: 't2', name: 'CPU', rule: 'cpu', selection: all, started_ms: now - 2 * HOUR, progress_ratio: 1, series: 4, outcome: { is: 'refused', said: 'too few crossings', refusal: { refusal: 'too_few_crossings', chosen_on: 1, reported_on: 0 } } },
  ]
}
