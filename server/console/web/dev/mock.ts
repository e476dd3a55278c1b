/** Answers /api/v1 in `npm run dev` and `npm run preview` from the invented site; nothing of it is built into the console. */

import type { IncomingMessage } from 'node:http'
import type { Connect, Plugin } from 'vite'
import type { Channel, Keywords, NewChannel } from '../src/api/types'
import * as site from './data.ts'

// `npm run dev` with FOREWARN_MOCK=empty shows a site without hosts.
const empty = process.env.FOREWARN_MOCK === 'empty'

async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : {}
}

class Refused extends Error {
  status: number
  error: string

  constructor(status: number, error: string, detail: string) {
    super(detail)
    this.status = status
    this.error = error
  }
}

let channels = empty ? [] : site.channels
let rules = site.rules
let keywords: Keywords = site.keywords

function answer(method: string, path: string[], query: URLSearchParams, body: Record<string, unknown>): unknown {
  const now = Date.now()
  const [noun, id, verb] = path
  const missing = new Refused(404, 'not_found', 'there is no such thing')
  switch (`${method} ${noun}`) {
    case 'GET health':
      return { status: 'ok', version: '0.1.0', now_ms: now }
    case 'POST login':
      if (body.password !== 'forewarn') throw new Refused(401, 'unauthorized', 'user or password is wrong')
      return { user: body.user }
    case 'POST logout':
    case 'GET me':
      return { user: 'admin' }
    case 'GET overview':
      return empty ? { now_ms: now, hosts: [], incidents: [], sending: false } : { now_ms: now, hosts: site.hosts(now), incidents: site.incidents(now), sending: channels.some((channel) => channel.send) && rules.some((rule) => rule.send) }
    case 'GET hosts':
      return (verb === 'plot' ? site.plot(query, now) : site.detail(id ?? '', now)) ?? missing
    case 'GET incidents': {
      const all = [...site.incidents(now), ...site.olderIncidents(now)]
      if (id) return all.find((incident) => incident.id === id) ?? missing
      if (query.get('state') === 'open') return { incidents: site.incidents(now), next: null }
      return query.get('cursor') ? { incidents: site.olderIncidents(now), next: null } : { incidents: site.incidents(now), next: 'more' }
    }
    case 'GET rules':
      return rules
    case 'PATCH rules':
      rules = rules.map((rule) => {
        if (rule.id !== id) return rule
        const { enabled, send, ...levels } = body
        return { ...rule, enabled: (enabled ?? rule.enabled) as boolean, send: (send ?? rule.send) as boolean, condition: { ...rule.condition, ...levels } as typeof rule.condition }
      })
      return rules.find((rule) => rule.id === id)
    case 'GET channels':
      return channels
    case 'POST channels': {
      if (verb === 'test') return { sent: id !== 'c2', answer: id === 'c2' ? '{"errcode":310000,"errmsg":"sign not match"}' : '{"errcode":0,"errmsg":"ok"}' }
      const { url, secret, ...rest } = body as NewChannel
      const made: Channel = { ...rest, id: `c${channels.length + 1}`, target: new URL(url).origin, signed: Boolean(secret), send: true, last: null }
      channels = [...channels, made]
      return made
    }
    case 'PATCH channels':
      channels = channels.map((channel) => (channel.id === id ? { ...channel, ...body } : channel))
      return channels.find((channel) => channel.id === id)
    case 'DELETE channels': {
      const gone = channels.find((channel) => channel.id === id)
      channels = channels.filter((channel) => channel.id !== id)
      return gone
    }
    case 'POST tokens': {
      const token = `fwt1.kX2v9QmT4hZpL0sR7wYb.${'5e1f'.repeat(16)}`
      return { token, expires_ms: now + Number(body.ttl_ms), command: `docker run -d --name forewarn-agent --restart unless-stopped --read-only --network host --cap-drop ALL --cap-add DAC_READ_SEARCH --group-add $(stat -c %g /var/run/docker.sock) -v /:/host:ro,rslave -v forewarn-agent-data:/data forewarn-agent:0.1.0 run --host-root /host --data-dir /data --server https://10.20.0.5:8443 --token ${token}` }
    }
    case 'GET models': {
      const all = empty ? [] : site.models(now)
      return id ? (all.find((model) => model.summary.id === id) ?? missing) : all.map((model) => model.summary)
    }
    case 'GET trainings':
      return empty ? [] : site.trainings(now)
    case 'GET keywords':
      return keywords
    case 'PUT keywords':
      keywords = body as unknown as Keywords
      return keywords
    default:
      throw missing
  }
}

function serve(middlewares: Connect.Server): void {
  middlewares.use('/api/v1', async (request, response) => {
    const url = new URL(request.url ?? '/', 'http://mock')
    const path = url.pathname.split('/').filter(Boolean).map(decodeURIComponent)
    response.setHeader('content-type', 'application/json')
    try {
      const open = ['login', 'health'].includes(path[0] ?? '')
      if (!open && !request.headers.cookie?.includes('forewarn_session=mock')) throw new Refused(401, 'unauthorized', 'log in first')
      if (request.method !== 'GET' && request.headers['forewarn-console'] !== '1') throw new Refused(403, 'forbidden', 'the header forewarn-console is missing')
      const reply = answer(request.method ?? 'GET', path, url.searchParams, await bodyOf(request))
      if (reply instanceof Refused) throw reply
      if (path[0] === 'login') response.setHeader('set-cookie', 'forewarn_session=mock; HttpOnly; SameSite=Strict; Path=/')
      if (path[0] === 'logout') response.setHeader('set-cookie', 'forewarn_session=; Max-Age=0; Path=/')
      response.end(JSON.stringify(reply))
    } catch (failure) {
      if (!(failure instanceof Refused)) throw failure
      response.statusCode = failure.status
      response.end(JSON.stringify({ error: failure.error, detail: failure.message }))
    }
  })
}

export function mock(): Plugin {
  return {
    name: 'forewarn-mock',
    configureServer: (server) => serve(server.middlewares),
    configurePreviewServer: (server) => serve(server.middlewares),
  }
}
