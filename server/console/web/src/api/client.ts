/** Talks to /api/v1 and nothing else. */

import type {
  Adoption, Channel, ChannelChange, ChannelTest, Health, HostDetail, Incident, IncidentPage, Keywords, Login, Me, Model,
  ModelDetail, NewChannel, NewRule, NewToken, NewTraining, Overview, Plot, Refusal, Rule, RuleChange, Selection, TokenView,
  Training,
} from './types'

/** What the server refused, or `status` 0 when it could not be reached. */
export class ApiError extends Error {
  constructor(readonly status: number, readonly refusal: Refusal) {
    super(refusal.detail)
  }
}

let onLoggedOut: () => void = () => {}

/** Called whenever an answer says that there is no session. */
export function whenLoggedOut(then: () => void): void {
  onLoggedOut = then
}

async function call<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = { accept: 'application/json' }
  if (method !== 'GET') headers['forewarn-console'] = '1'
  if (body !== undefined) headers['content-type'] = 'application/json'
  let answer: Response
  try {
    answer = await fetch(`/api/v1${path}`, {
      method, headers, signal, credentials: 'same-origin', body: body === undefined ? undefined : JSON.stringify(body),
    })
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error
    throw new ApiError(0, { error: 'unreachable', detail: '' })
  }
  const json: unknown = await answer.json().catch(() => null)
  if (answer.ok) return json as T
  if (answer.status === 401 && path !== '/login') onLoggedOut()
  const refusal = json as Partial<Refusal> | null
  throw new ApiError(answer.status, { error: refusal?.error ?? 'unknown', detail: refusal?.detail ?? '' })
}

function query(params: Record<string, string | number | undefined>): string {
  const given = Object.entries(params).flatMap(([key, value]) => (value === undefined ? [] : [[key, String(value)]]))
  return new URLSearchParams(given).toString()
}

const id = encodeURIComponent

export const api = {
  health: () => call<Health>('GET', '/health'),
  login: (login: Login) => call<Me>('POST', '/login', login),
  logout: () => call<Me>('POST', '/logout'),
  me: () => call<Me>('GET', '/me'),
  overview: (signal?: AbortSignal) => call<Overview>('GET', '/overview', undefined, signal),
  host: (host: string, signal?: AbortSignal) => call<HostDetail>('GET', `/hosts/${id(host)}`, undefined, signal),
  plot: (
    host: string,
    series: { entity: string; metric: string; instance: string },
    span: { from_ms: number; to_ms: number; points?: number },
    signal?: AbortSignal,
  ) => {
    const { entity, metric, instance } = series
    return call<Plot>('GET', `/hosts/${id(host)}/plot?${query({ entity, metric, instance, ...span })}`, undefined, signal)
  },
  incidents: (filter: { state: 'open' | 'all'; host?: string; cursor?: string }, signal?: AbortSignal) =>
    call<IncidentPage>('GET', `/incidents?${query(filter)}`, undefined, signal),
  incident: (incident: string, signal?: AbortSignal) =>
    call<Incident>('GET', `/incidents/${id(incident)}`, undefined, signal),
  rules: (signal?: AbortSignal) => call<Rule[]>('GET', '/rules', undefined, signal),
  addRule: (rule: NewRule) => call<Rule>('POST', '/rules', rule),
  deleteRule: (rule: string) => call<Rule>('DELETE', `/rules/${id(rule)}`),
  changeRule: (rule: string, change: RuleChange) => call<Rule>('PATCH', `/rules/${id(rule)}`, change),
  channels: (signal?: AbortSignal) => call<Channel[]>('GET', '/channels', undefined, signal),
  addChannel: (channel: NewChannel) => call<Channel>('POST', '/channels', channel),
  changeChannel: (channel: string, change: ChannelChange) => call<Channel>('PATCH', `/channels/${id(channel)}`, change),
  deleteChannel: (channel: string) => call<Channel>('DELETE', `/channels/${id(channel)}`),
  testChannel: (channel: string) => call<ChannelTest>('POST', `/channels/${id(channel)}/test`),
  makeToken: (token: NewToken) => call<TokenView>('POST', '/tokens', token),
  keywords: (signal?: AbortSignal) => call<Keywords>('GET', '/keywords', undefined, signal),
  models: (signal?: AbortSignal) => call<Model[]>('GET', '/models', undefined, signal),
  model: (model: string) => call<ModelDetail>('GET', `/models/${id(model)}`),
  deleteModel: (model: string) => call<Model>('DELETE', `/models/${id(model)}`),
  adopt: (model: string, selection: Selection) => call<Adoption>('POST', `/models/${id(model)}/adopt`, selection),
  endAdoption: (adoption: string) => call<Adoption>('DELETE', `/adoptions/${id(adoption)}`),
  trainings: (signal?: AbortSignal) => call<Training[]>('GET', '/trainings', undefined, signal),
  train: (training: NewTraining) => call<Training>('POST', '/trainings', training),
  cancelTraining: (training: string) => call<Training>('DELETE', `/trainings/${id(training)}`),
  saveKeywords: (keywords: Keywords) => call<Keywords>('PUT', '/keywords', keywords),
}
