import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import openapiTS, { astToString, COMMENT_HEADER } from 'openapi-typescript'
import { expect, it } from 'vitest'

const WEB = join(import.meta.dirname, '..')

it('the types are those of the OpenAPI snapshot; `npm run types` makes them anew', async () => {
  const snapshot = JSON.parse(readFileSync(join(WEB, 'openapi.json'), 'utf8'))
  expect(readFileSync(join(WEB, 'src/api/schema.d.ts'), 'utf8')).toBe(COMMENT_HEADER + astToString(await openapiTS(snapshot)))
})

it('every address that the console asks for is in the snapshot, with that method', () => {
  const snapshot = JSON.parse(readFileSync(join(WEB, 'openapi.json'), 'utf8')) as { paths: Record<string, Record<string, unknown>> }
  const served = Object.entries(snapshot.paths).flatMap(([path, methods]) => Object.keys(methods).map((method) => `${method.toUpperCase()} ${path.replace(/\{\w+\}/g, '{}')}`))
  const client = readFileSync(join(WEB, 'src/api/client.ts'), 'utf8')
  const asked = [...client.matchAll(/'(GET|POST|PUT|PATCH|DELETE)', ['`]([^'`]+)['`]/g)].map(([, method, path]) => `${method} /api/v1${path!.replace(/\?.*$/, '').replace(/\$\{id\(\w+\)\}/g, '{}')}`)
  expect(asked.length).toBeGreaterThan(15)
  for (const call of asked) expect(served).toContain(call)
})
