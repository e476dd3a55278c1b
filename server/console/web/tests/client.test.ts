import { afterEach, expect, it, vi } from 'vitest'
import { api, ApiError, whenLoggedOut } from '../src/api/client'

const fetched = vi.fn<typeof fetch>()
vi.stubGlobal('fetch', fetched)
afterEach(() => fetched.mockReset())

const answer = (status: number, body: string) => fetched.mockResolvedValueOnce(new Response(body, { status }))
const failure = (call: Promise<unknown>) => call.then(() => expect.fail('it was accepted'), (error: unknown) => error as ApiError)

it('every change carries the header that a foreign page cannot send, and nothing leaves the origin', async () => {
  for (const call of [() => api.login({ user: 'a', password: 'b' }), () => api.logout(), () => api.changeRule('disk', { send: false }), () => api.addChannel({ name: 'n', kind: 'webhook', url: 'http://x', secret: '', language: 'zh', severity_min: 'info' }), () => api.changeChannel('c', { send: true }), () => api.deleteChannel('c'), () => api.testChannel('c'), () => api.makeToken({ uses: 1, ttl_ms: 1 }), () => api.saveKeywords({ rules: [] })]) {
    answer(200, '{}')
    await call()
    const [path, init] = fetched.mock.lastCall!
    expect(path).toMatch(/^\/api\/v1\//)
    expect(init!.method).not.toBe('GET')
    expect((init!.headers as Record<string, string>)['forewarn-console']).toBe('1')
  }
})

it('names with odd characters stay one part of the path', async () => {
  answer(200, '{}')
  await api.host('../rules?x=1')
  expect(fetched.mock.lastCall![0]).toBe('/api/v1/hosts/..%2Frules%3Fx%3D1')
  answer(200, '{}')
  await api.plot('h', { entity: 'e', metric: 'fs_used_ratio', instance: '/data & more' }, { from_ms: 1, to_ms: 2 })
  expect(fetched.mock.lastCall![0]).toBe('/api/v1/hosts/h/plot?entity=e&metric=fs_used_ratio&instance=%2Fdata+%26+more&from_ms=1&to_ms=2')
})

it('a session that has ended is told once; a wrong password is not that', async () => {
  const loggedOut = vi.fn()
  whenLoggedOut(loggedOut)
  answer(401, '{"error":"unauthorized","detail":"log in first"}')
  expect((await failure(api.overview())).status).toBe(401)
  expect(loggedOut).toHaveBeenCalledOnce()
  answer(401, '{"error":"unauthorized","detail":"wrong"}')
  await failure(api.login({ user: 'a', password: 'b' }))
  expect(loggedOut).toHaveBeenCalledOnce()
})

it('a refusal is what the server said, even when it did not say it in JSON', async () => {
  answer(413, '{"error":"too_large","detail":"at most 64 rules"}')
  expect((await failure(api.saveKeywords({ rules: [] }))).refusal.detail).toBe('at most 64 rules')
  answer(502, '<html>bad gateway</html>')
  expect(await failure(api.rules())).toMatchObject({ status: 502, refusal: { detail: '' } })
  fetched.mockRejectedValueOnce(new TypeError('network'))
  expect((await failure(api.rules())).status).toBe(0)
})
