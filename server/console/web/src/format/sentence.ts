/** What the numbers say, in words: names, outlooks, reasons, titles of incidents, the line on top. Pure. */

import type {
  Because, Condition, Expert, Forecast, HostSummary, Incident, Outlook, Overview, Reason, Rule, Unit,
} from '../api/types'
import type { Words } from '../i18n/words'
import { clockIsOff, formatClock, formatDay, formatSpan, formatTime } from './time'
import { formatRatio, formatValue } from './value'

const BUCKET_MS = 300_000
const HOUR_MS = 3_600_000
const REASONS_MAX = 3

/** `group.name` in the chosen language, or the raw name when nobody has translated it. */
export function named(words: Words, group: string, name: string): string {
  const key = `${group}.${name}`
  return /^[\w-]+$/.test(name) && words.has(key) ? words.t(key) : name
}

/** The rule's own name, else the translation of its id, else the id. */
export function ruleName(words: Words, rule: Pick<Rule, 'id' | 'name'>): string {
  return rule.name || named(words, 'rule', rule.id)
}

export function metricName(words: Words, metric: string, instance = ''): string {
  const name = named(words, 'metric', metric)
  if (!instance) return name
  return `${name} · ${metric === 'log_hits' ? named(words, 'keyword', instance) : instance}`
}

/** The unit of a metric, told by its name as the server tells it. */
export function unitOf(metric: string): Unit {
  if (metric.endsWith('_ratio')) return 'ratio'
  if (metric.endsWith('_bytes')) return 'bytes'
  return /_(ms|milliseconds)$/.test(metric) ? 'milliseconds' : 'count'
}

/** What a series is called inside a sentence; `owner` is left out for the host itself. */
export function subject(words: Words, series: { metric: string; instance: string }, owner = ''): string {
  const key = `subject.${series.metric}`
  const what = words.has(key) ? words.t(key, { instance: series.instance }) : metricName(words, series.metric, series.instance)
  return owner ? words.t('subject.of', { subject: what, entity: owner }) : what
}

/** `between 21:10 and 23:40`, with the day where it is not today. */
export function whenWords(words: Words, from_ms: number, to_ms: number, now_ms: number): string {
  const from = formatTime(from_ms, now_ms, words.language)
  if (Math.abs(to_ms - from_ms) < 60_000) return words.t('time.at', { time: from })
  const sameDay = formatDay(from_ms, now_ms, words.language) === formatDay(to_ms, now_ms, words.language)
  const to = sameDay ? formatClock(to_ms) : formatTime(to_ms, now_ms, words.language)
  return words.t('time.between', { from, to })
}

function reasonWords(words: Words, reason: Reason): string {
  const span = (span_ms: number) => formatSpan(span_ms, words.language)
  switch (reason.reason) {
    case 'too_short':
      return words.t('reason.too_short', { have: span(reason.have_ms), need: span(reason.need_ms) })
    case 'too_many_gaps':
      return words.t('reason.too_many_gaps', { missing: formatRatio(reason.missing_ratio), limit: formatRatio(reason.limit_ratio) })
    case 'stale':
      return words.t('reason.stale', { age: span(reason.age_ms) })
    case 'horizon_too_long':
      return words.t('reason.horizon_too_long', { limit: span(reason.limit_ms) })
    case 'bad_question':
      return words.t('reason.bad_question')
    default:
      return words.t('reason.unknown')
  }
}

/** One sentence: what will become of the series. */
export function outlookWords(words: Words, outlook: Outlook, now_ms: number, owner = ''): string {
  const { forecast, metric } = outlook
  const unit = unitOf(metric)
  const what = subject(words, outlook, owner)
  const threshold = formatValue(forecast.threshold, unit)
  const state = forecast.state
  switch (state.is) {
    case 'warning':
      return words.t('outlook.warning', { subject: what, threshold, when: whenWords(words, state.earliest_ms, state.latest_ms, now_ms) })
    case 'breached':
      return words.t('outlook.breached', { subject: what, threshold, value: formatValue(forecast.value, unit) })
    case 'stable':
      if (forecast.probability >= 0.5) {
        return words.t('outlook.unsure', { subject: what, threshold, span: formatSpan(forecast.horizon_ms, words.language), probability: formatRatio(forecast.probability, 0) })
      }
      return words.t('outlook.stable', { subject: what, threshold, span: formatSpan(forecast.horizon_ms, words.language) })
    case 'no_forecast':
      return words.t('outlook.none', { subject: what, reason: reasonWords(words, state.reason) })
  }
}

function expertWords(words: Words, expert: Expert, expects: string): string {
  const window = (buckets: number) => formatSpan(buckets * BUCKET_MS, words.language)
  switch (expert.expert) {
    case 'hold':
      return words.t('because.hold')
    case 'trend':
      return words.t(expert.half ? 'because.trend_half' : 'because.trend', { window: window(expert.window), expects })
    case 'long_trend':
      return words.t('because.long_trend', { expects })
    case 'envelope':
      return words.t('because.envelope', { expects })
    case 'season':
      return words.t(expert.days === 1 ? 'because.season_day' : 'because.season', { days: expert.days, expects })
    default:
      return ''
  }
}

/** A slope is small beside its level: a ratio keeps two decimals. */
function formatSlope(slope: number, unit: Unit): string {
  const size = Math.abs(slope)
  return unit === 'ratio' ? formatRatio(size, size < 0.001 ? 3 : size < 0.1 ? 2 : 1) : formatValue(size, unit)
}

function becauseWords(words: Words, because: Because, unit: Unit, full: number): string {
  const span = (span_ms: number) => formatSpan(span_ms, words.language)
  switch (because.because) {
    case 'trend': {
      const named = { slope: formatSlope(because.slope_per_hour, unit), window: span(because.window_ms) }
      if (because.slope_per_hour === 0) return words.t('because.level', named)
      return words.t(because.slope_per_hour > 0 ? 'because.rise' : 'because.fall', named)
    }
    case 'record':
      return words.t('because.record', { ratio: formatRatio(because.crossed_ratio, 0) })
    case 'sawtooth':
      return words.t('because.sawtooth', { period: span(because.period_ms), top: formatValue(Math.min(because.top, full), unit) })
    case 'reset':
      return words.t('because.reset', { age: span(because.age_ms) })
    case 'decomposition':
      return words.t('because.decomposition', { probability: formatRatio(because.probability, 0) })
    case 'decomposition_waits':
      return words.t('because.decomposition_waits')
    case 'expert':
      return expertWords(words, because.expert, formatValue(Math.min(because.expects, full), unit))
    default:
      return ''
  }
}

/** Why the forecast says so: one sentence of the most telling reasons; empty when there are none. */
export function reasonsWords(words: Words, forecast: Forecast, unit: Unit): string {
  if (forecast.state.is === 'no_forecast') return ''
  // A line drawn on knows no end; of a share there is no more than all.
  const full = unit === 'ratio' ? Math.max(1, forecast.value, forecast.threshold) : Infinity
  const clauses = forecast.reasons.slice(0, REASONS_MAX).map((because) => becauseWords(words, because, unit, full)).filter(Boolean)
  if (clauses.length === 0) return ''
  const sentence = clauses.join(words.t('common.clause')) + words.t('common.stop')
  return sentence.charAt(0).toUpperCase() + sentence.slice(1)
}

/** The line that names an incident. */
export function incidentTitle(words: Words, incident: Incident, now_ms: number): string {
  const { evidence } = incident
  // A workload's incident names the workload; a host's own carries the host's name twice.
  const owner = evidence.entity_name && evidence.entity_name !== evidence.host_name ? evidence.entity_name : ''
  if (evidence.metric) {
    const unit = unitOf(evidence.metric)
    const what = subject(words, { metric: evidence.metric, instance: incident.instance }, owner)
    const threshold = evidence.threshold == null ? '' : formatValue(evidence.threshold, unit)
    const parts = { subject: what, threshold, value: evidence.value == null ? '' : formatValue(evidence.value, unit) }
    if (incident.state === 'resolved') return words.t(incident.kind === 'alarm' ? 'title.was' : 'title.was_will', parts)
    if (incident.kind === 'alarm') return words.t(parts.value && threshold ? 'title.is' : 'title.is_some', parts)
    const state = evidence.forecast?.state
    if (state?.is !== 'warning') return words.t('title.will_some', parts)
    return words.t('title.will', { ...parts, when: whenWords(words, state.earliest_ms, state.latest_ms, now_ms) })
  }
  const entity = owner || evidence.host_name
  if (evidence.keyword) return words.t('title.keyword', { keyword: named(words, 'keyword', evidence.keyword), entity })
  const died = evidence.events.find((event) => event.kind === 'die')
  switch (incident.rule) {
    case 'host_silent':
      return words.t('title.host_silent', { host: evidence.host_name })
    case 'container_died':
      return died ? words.t('title.container_died', { entity, code: died.code }) : words.t('title.container_died_some', { entity })
    case 'container_oom':
    case 'restart_loop':
    case 'unhealthy':
      return words.t(`title.${incident.rule}`, { entity })
    default:
      return words.t('title.other', { rule: named(words, 'rule', incident.rule), entity })
  }
}

/** What a rule looks at. */
export function conditionWords(words: Words, condition: Condition): string {
  const span = (span_ms: number) => formatSpan(span_ms, words.language)
  switch (condition.type) {
    case 'threshold':
      return words.t(`condition.threshold_${condition.entity_kind}`, { metric: named(words, 'metric', condition.metric), span: span(condition.for_ms) })
    case 'keyword':
      return words.t('condition.keyword', { severity: words.t(`severity.${condition.severity_min}`), span: span(condition.quiet_ms) })
    case 'host_silent':
      return words.t('condition.host_silent', { span: span(condition.after_ms) })
    case 'restart_loop':
      return words.t('condition.restart_loop', { n: condition.restarts, span: span(condition.within_ms) })
    case 'container_died':
    case 'container_oom':
    case 'unhealthy':
      return words.t(`condition.${condition.type}`)
    default:
      return words.t('condition.other')
  }
}

/** How a host is doing, in one word; the worst first. */
export type HostState = 'alarm' | 'silent' | 'warning' | 'clock' | 'calm'

export function hostState(host: HostSummary): HostState {
  const outlook = host.outlook?.forecast.state.is
  if (host.silent) return 'silent'
  if (outlook === 'breached' || host.alarms > 0) return 'alarm'
  if (outlook === 'warning' || host.incidents > 0) return 'warning'
  return clockIsOff(host.skew_ms) ? 'clock' : 'calm'
}

const HEADLINE_RULES = ['disk', 'inodes', 'memory', 'cpu', 'container_memory']

/** The state of the site in one sentence, and how bad it is. */
export function headline(words: Words, overview: Overview): { state: HostState; text: string } {
  const { hosts, now_ms } = overview
  if (hosts.length === 0) return { state: 'calm', text: words.t('headline.no_hosts') }
  const states = hosts.map(hostState)
  const count = (state: HostState) => states.filter((other) => other === state).length
  const parts: { n: number; what: string }[] = []
  const add = (n: number, key: string) => n > 0 && parts.push({ n, what: words.t(key, {}, n) })
  add(count('alarm'), 'headline.alarm')

  const coming = new Map<string, { n: number; last_ms: number }>()
  let expected = 0
  hosts.forEach((host, at) => {
    const state = host.outlook?.forecast.state
    if (host.silent || state?.is !== 'warning' || !host.outlook) return
    // A host in alarm may have more to come; it is counted in both.
    if (states[at] === 'warning') expected += 1
    const rule = HEADLINE_RULES.includes(host.outlook.rule) ? host.outlook.rule : 'other'
    const group = coming.get(rule) ?? { n: 0, last_ms: 0 }
    coming.set(rule, { n: group.n + 1, last_ms: Math.max(group.last_ms, state.latest_ms) })
  })
  for (const [rule, { n, last_ms }] of coming) {
    const span = formatSpan(Math.max(1, Math.ceil((last_ms - now_ms) / HOUR_MS)) * HOUR_MS, words.language)
    parts.push({ n, what: words.t('headline.within', { span, what: words.t(`headline.rule.${rule}`, {}, n) }) })
  }
  add(count('warning') - expected, 'headline.incident')
  add(count('silent'), 'headline.silent')
  add(count('clock'), 'headline.clock')
  if (parts.length === 0) return { state: 'calm', text: words.t('headline.calm', { n: hosts.length }, hosts.length) }

  const [first, ...rest] = parts
  // The form goes by the number of hosts: an only host is called by its name.
  const clauses = [
    words.t('headline.of', { what: first!.what, some: first!.n, total: hosts.length, name: hosts[0]!.name }, hosts.length),
    ...rest.map((part) => words.t('headline.also', { what: part.what, some: part.n }, hosts.length)),
  ]
  const worst = (['alarm', 'silent', 'warning', 'clock'] as const).find((state) => count(state) > 0)
  return { state: worst ?? 'calm', text: clauses.join(words.t('common.clause')) + words.t('common.stop') }
}
