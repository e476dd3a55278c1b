/** The API's shapes under the names that the console uses. The only file that knows where they come from. */

export type Health = { status: string; version: string; now_ms: number }
export type Login = { user: string; password: string }
export type Me = { user: string }
export type Refusal = { error: string; detail: string }

export type Severity = 'info' | 'warning' | 'critical'
export type EntityKind = 'host' | 'workload'
export type Kind = 'gauge' | 'increment'
export type Unit = 'count' | 'ratio' | 'bytes' | 'milliseconds'
export type Language = 'zh' | 'en'
export type ChannelKind = 'webhook' | 'dingtalk' | 'wecom' | 'feishu'
export type DeliveryState = 'queued' | 'sent' | 'failed' | 'muted'
export type IncidentKind = 'warning' | 'alarm'
export type IncidentState = 'pending' | 'firing' | 'resolved'
export type Transition = 'warned' | 'alarmed' | 'resolved'
export type EventKind = 'start' | 'die' | 'oom' | 'health' | 'destroy' | 'stop'

export type Expert =
  | { expert: 'hold' }
  | { expert: 'trend'; window: number; half: boolean }
  | { expert: 'long_trend' }
  | { expert: 'envelope'; window: number }
  | { expert: 'season'; days: number; carry: 'level' | 'rise' | 'drift' }

export type Because =
  | { because: 'expert'; expert: Expert; weight_ratio: number; expects: number }
  | { because: 'record'; crossed_ratio: number; horizons: number }
  | { because: 'trend'; window_ms: number; slope_per_hour: number; probability: number }
  | { because: 'sawtooth'; period_ms: number; top: number }
  | { because: 'reset'; age_ms: number }
  | { because: 'decomposition'; probability: number; age_ms: number }

export type Reason =
  | { reason: 'too_short'; have_ms: number; need_ms: number }
  | { reason: 'too_many_gaps'; missing_ratio: number; limit_ratio: number }
  | { reason: 'stale'; age_ms: number; limit_ms: number }
  | { reason: 'bad_question' }

export type ForecastState =
  | { state: 'no_forecast'; reason: Reason }
  | { state: 'stable' }
  | { state: 'warning'; probability: number; earliest_ms: number; likely_ms: number; latest_ms: number }
  | { state: 'breached' }

export type BandPoint = { t_ms: number; low: number; mid: number; high: number }

export type Forecast = {
  state: ForecastState
  probability: number
  at_ms: number
  value: number
  threshold: number
  horizon_ms: number
  likely_ms?: number | null
  reasons: Because[]
  band: BandPoint[]
}

export type Outlook = {
  rule: string
  entity: string
  entity_name: string
  metric: string
  instance: string
  forecast: Forecast
}

export type Fullest = { instance: string; used_ratio: number }

export type HostSummary = {
  id: string
  name: string
  component: string
  seen_ms: number
  silent: boolean
  skew_ms: number
  agent_version: string
  containers: number
  cpu_used_ratio?: number | null
  mem_used_ratio?: number | null
  disk?: Fullest | null
  outlook?: Outlook | null
  incidents: number
}

export type Attribute = { key: string; value: string }

export type Workload = {
  entity: string
  name: string
  component: string
  attributes: Attribute[]
  running?: boolean | null
  cpu_used_ratio?: number | null
  mem_used_ratio?: number | null
  updated_ms: number
}

export type SeriesView = {
  entity: string
  entity_kind: EntityKind
  entity_name: string
  metric: string
  instance: string
  kind: Kind
  unit: Unit
}

export type Plot = {
  series: SeriesView
  step_ms: number
  points: [number, number][]
  threshold?: number | null
  rule?: string | null
  forecast?: Forecast | null
  band: BandPoint[]
}

export type Delivery = {
  id: string
  channel: string
  channel_name: string
  transition: Transition
  state: DeliveryState
  attempts: number
  created_ms: number
  done_ms?: number | null
  answer: string
}

export type LineEvidence = { at_ms: number; line: string; before: string[]; after: string[] }
export type EventEvidence = { at_ms: number; kind: EventKind; code: number }

export type Evidence = {
  host_name: string
  entity_name: string
  component: string
  metric?: string | null
  value?: number | null
  threshold?: number | null
  over_since_ms?: number | null
  forecast?: Forecast | null
  keyword?: string | null
  hits: number
  lines: LineEvidence[]
  events: EventEvidence[]
  last_ms: number
  digest?: string | null
}

export type Incident = {
  id: string
  rule: string
  host: string
  entity: string
  instance: string
  kind: IncidentKind
  state: IncidentState
  severity: Severity
  opened_ms: number
  fired_ms?: number | null
  resolved_ms?: number | null
  updated_ms: number
  evidence: Evidence
  deliveries: Delivery[]
}

export type IncidentPage = { incidents: Incident[]; next?: string | null }

export type Overview = { now_ms: number; hosts: HostSummary[]; incidents: Incident[]; sending: boolean }

export type HostDetail = {
  summary: HostSummary
  enrolled_ms: number
  attributes: Attribute[]
  workloads: Workload[]
  outlooks: Outlook[]
  series: SeriesView[]
  incidents: Incident[]
}

export type Condition =
  | { type: 'threshold'; metric: string; entity_kind: EntityKind; threshold: number; horizon_ms: number; for_ms: number }
  | { type: 'keyword'; severity_min: Severity; quiet_ms: number }
  | { type: 'host_silent'; after_ms: number }
  | { type: 'container_died' }
  | { type: 'container_oom' }
  | { type: 'restart_loop'; restarts: number; within_ms: number }
  | { type: 'unhealthy' }

export type Rule = {
  id: string
  name: string
  enabled: boolean
  send: boolean
  severity: Severity
  condition: Condition
}

export type RuleChange = {
  enabled?: boolean | null
  send?: boolean | null
  threshold?: number | null
  horizon_ms?: number | null
}

export type Channel = {
  id: string
  name: string
  kind: ChannelKind
  target: string
  signed: boolean
  language: Language
  severity_min: Severity
  send: boolean
  last?: Delivery | null
}

export type NewChannel = {
  name: string
  kind: ChannelKind
  url: string
  secret?: string
  language: Language
  severity_min: Severity
}

export type ChannelChange = {
  name?: string | null
  language?: Language | null
  severity_min?: Severity | null
  send?: boolean | null
}

export type ChannelTest = { sent: boolean; answer: string }
export type NewToken = { uses: number; ttl_ms: number }
export type TokenView = { token: string; expires_ms: number; command: string }

export type KeywordRule = {
  name: string
  severity: Severity
  literals?: string[]
  regexes?: string[]
  ignore_case?: boolean
}
export type Keywords = { rules: KeywordRule[] }
