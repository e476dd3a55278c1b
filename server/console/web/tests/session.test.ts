import { beforeEach, expect, it, vi } from 'vitest'

const fetched = vi.fn<typeof fetch>()
vi.stubGlobal('fetch', fetched)

/** The module as a freshly opened page has it. */
async function freshPage() {
  vi.resetModules()
  return import('../src/session')
}

beforeEach(() => {
  fetched.mockReset()
  localStorage.clear()
})

it('a browser that never logged in is not asked about', async () => {
  const { restoreSession } = await freshPage()
  expect(await restoreSession()).toBe(false)
  expect(fetched).not.toHaveBeenCalled()
})

it('a reloaded page goes on with the session, and nothing of the password is kept', async () => {
  fetched.mockResolvedValueOnce(new Response('{"user":"admin"}'))
  await (await freshPage()).login('admin', 'a-secret-word')
  expect(JSON.stringify({ ...localStorage })).not.toContain('a-secret-word')
  fetched.mockResolvedValueOnce(new Response('{"user":"admin"}'))
  const { restoreSession, user } = await freshPage()
  expect(await restoreSession()).toBe(true)
  expect(user.value).toBe('admin')
})

it('after signing out nothing is left, even when the server did not answer', async () => {
  fetched.mockResolvedValueOnce(new Response('{"user":"admin"}'))
  const page = await freshPage()
  await page.login('admin', 'x')
  fetched.mockRejectedValueOnce(new TypeError('network'))
  await page.logout()
  expect(page.user.value).toBeNull()
  expect(await (await freshPage()).restoreSession()).toBe(false)
})

it('a server that is away is not a lost session', async () => {
  localStorage.setItem('forewarn.session', 'yes')
  fetched.mockRejectedValueOnce(new TypeError('network'))
  await expect((await freshPage()).restoreSession()).rejects.toMatchObject({ status: 0 })
  fetched.mockResolvedValueOnce(new Response('{"error":"unauthorized","detail":""}', { status: 401 }))
  expect(await (await freshPage()).restoreSession()).toBe(false)
})
