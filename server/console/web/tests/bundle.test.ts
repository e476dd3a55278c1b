import { join } from 'node:path'
import { build } from 'vite'
import { beforeAll, expect, it, vi } from 'vitest'

const WEB = join(import.meta.dirname, '..')
type Output = { fileName: string; code?: string; source?: string | Uint8Array }
let files: { name: string; text: string }[] = []

beforeAll(async () => {
  // Libraries look at this to leave out what helps only their users' developers.
  vi.stubEnv('NODE_ENV', 'production')
  const built = (await build({ root: WEB, configFile: join(WEB, 'vite.config.ts'), logLevel: 'error', mode: 'production', build: { write: false } })) as { output: Output[] }
  files = built.output.map((file) => ({ name: file.fileName, text: file.code ?? (typeof file.source === 'string' ? file.source : new TextDecoder().decode(file.source)) }))
  vi.unstubAllEnvs()
}, 120_000)

it('the first page has no inline script and loads only from its own origin', () => {
  const index = files.find((file) => file.name === 'index.html')!.text
  expect(index).toContain('src="/assets/')
  expect(index).not.toMatch(/<script(?![^>]*\bsrc=)/)
  expect(index).not.toMatch(/https?:/)
  expect(index).not.toMatch(/\son\w+=/)
})

it('no style loads anything from elsewhere', () => {
  const styles = files.filter((file) => file.name.endsWith('.css'))
  expect(styles.length).toBeGreaterThan(0)
  for (const { name, text } of styles) expect(text.match(/@import|url\((?!['"]?data:)[^)]*\)/g), name).toBeNull()
})

it('every address in the scripts is a name or a hint, never a load', () => {
  // XML namespaces, and what the libraries say in messages or keep for features that are off here.
  const known = ['www.w3.org', 'plotly.com', 'cdn.plot.ly', 'cloud.plotly.com', 'github.com', 'vuejs.org', 'element-plus.org']
  for (const { name, text } of files.filter((file) => file.name.endsWith('.js'))) {
    for (const [url, host] of text.matchAll(/https?:\/\/([\w-][\w.-]*)/g)) expect(known, `${name}: ${url}`).toContain(host)
    expect(text.match(/(?:fetch|import|importScripts|sendBeacon|open|EventSource|WebSocket)\(\s*["'`](?:https?:|wss?:|\/\/)/g), name).toBeNull()
  }
})

it('nothing needs unsafe-eval', () => {
  for (const { name, text } of files.filter((file) => file.name.endsWith('.js'))) expect(text.match(/\bnew Function\(|[^.\w]eval\(/g), name).toBeNull()
})

it('the pages without a plot stay light', () => {
  const plotly = files.filter((file) => file.name.includes('plotly'))
  expect(plotly).toHaveLength(1)
  const others = files.filter((file) => !file.name.includes('plotly')).reduce((sum, file) => sum + file.text.length, 0)
  expect(others).toBeLessThan(700_000)
  for (const { name, text } of files) if (!name.includes('plotly') && name.endsWith('.js')) expect(text.includes('plant-3'), name).toBe(false)
})
