import { parse as parseVue } from 'vue/compiler-sfc'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { preferredLanguage } from '../src/i18n'
import en from '../src/i18n/en'
import zh from '../src/i18n/zh'

const WEB = join(import.meta.dirname, '..')
const REPOSITORY = join(WEB, '../../..')

function flatten(tree: object, path = ''): Map<string, string> {
  return new Map(Object.entries(tree).flatMap(([key, value]) => (typeof value === 'string' ? [[path + key, value] as const] : [...flatten(value as object, `${path}${key}.`)])))
}
const [english, chinese] = [flatten(en), flatten(zh)]

function sources(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? sources(join(folder, entry.name)) : /\.(vue|ts)$/.test(entry.name) ? [join(folder, entry.name)] : []))
}
const code = sources(join(WEB, 'src')).filter((path) => !/i18n\/(en|zh)\.ts$/.test(path)).map((path) => ({ path, text: readFileSync(path, 'utf8') }))

it('both languages have the same messages, with the same placeholders', () => {
  expect([...chinese.keys()].sort()).toEqual([...english.keys()].sort())
  const places = (text: string) => [...new Set(text.match(/\{\w+\}/g))].sort()
  for (const [key, text] of english) {
    expect(text.trim(), key).not.toBe('')
    expect(places(chinese.get(key)!), key).toEqual(places(text))
  }
})

it('Chinese messages are Chinese', () => {
  const same = [...english].filter(([key, text]) => chinese.get(key) === text && /[A-Za-z]{2}/.test(text)).map(([key]) => key)
  expect(same.sort()).toEqual(['attribute.cpu', 'channel_kind.webhook', 'hosts.cpu', 'language.en', 'metric_group.cpu'].sort())
})

it('every message that the code names exists', () => {
  for (const { path, text } of code) {
    for (const [, key] of text.matchAll(/\bt\(\s*'([\w.]+)'/g)) expect(english.has(key!), `${path}: ${key}`).toBe(true)
    // A key that is put together must at least begin like a message.
    for (const [, start] of text.matchAll(/\bt\(\s*`([\w.]+)\$\{/g)) expect([...english.keys()].some((key) => key.startsWith(start!)), `${path}: ${start}`).toBe(true)
  }
})

it('every message is used', () => {
  const all = code.map(({ text }) => text).join('\n')
  const starts = [...all.matchAll(/`([\w]+\.(?:\w+[._])?)\$\{/g)].map(([, start]) => start!)
  // named() and subject() look these groups up by what the server says.
  const looked = ['rule.', 'muted.', 'keyword.', 'metric.', 'attribute.', 'health.', 'subject.', 'headline.rule.', 'ended.', 'variant.']
  const unused = [...english.keys()].filter((key) => !all.includes(`'${key}'`) && ![...starts, ...looked].some((start) => key.startsWith(start)))
  expect(unused).toEqual([])
})

it('no page says a word that is not translated', () => {
  // The product's own name is the same in both languages, and each language is called by its own.
  const names = ['Forewarn', '先见', '中文', 'EN']
  const found: string[] = []
  const visit = (path: string, node: { type: number; content?: unknown; children?: unknown[]; props?: { type: number; name: string; value?: { content: string } }[] }) => {
    if (node.type === 2 && typeof node.content === 'string' && /[A-Za-z\u4e00-\u9fff]/.test(node.content) && !names.includes(node.content.trim())) found.push(`${path}: ${node.content.trim()}`)
    for (const prop of node.props ?? []) if (prop.type === 6 && ['title', 'alt', 'aria-label', 'placeholder', 'label'].includes(prop.name) && prop.value?.content) found.push(`${path}: ${prop.name}=${prop.value.content}`)
    for (const child of node.children ?? []) if (typeof child === 'object') visit(path, child as never)
  }
  for (const { path, text } of code) {
    const template = path.endsWith('.vue') && parseVue(text).descriptor.template?.ast
    if (template) visit(path, template as never)
  }
  expect(found).toEqual([])
})

it('no page shows HTML that it was given', () => {
  for (const { path, text } of code) expect(/v-html|innerHTML|insertAdjacentHTML|document\.write/.test(text), path).toBe(false)
})

it('default rules, keyword rules and metrics of the server all have a name in both languages', () => {
  const read = (path: string) => readFileSync(join(REPOSITORY, path), 'utf8')
  const rules = [...read('server/src/model/rule.rs').matchAll(/(?:threshold|rule)\("(\w+)"/g)].map(([, id]) => `rule.${id}`)
  const keywords = [...read('common/src/keyword.rs').matchAll(/rule\(\s*"(\w+)"/g)].map(([, name]) => `keyword.${name}`)
  const metrics = [...read('common/src/metric.rs').matchAll(/^ {4}\w+ = \d+, "(\w+)"/gm)].map(([, name]) => `metric.${name}`)
  expect(rules.length).toBeGreaterThan(9)
  expect(keywords.length).toBeGreaterThan(9)
  expect(metrics.length).toBeGreaterThan(50)
  for (const key of [...rules, ...keywords, ...metrics]) expect(chinese.has(key), key).toBe(true)
})

it('the language is the remembered one, else the first of the browser that the console speaks', () => {
  expect(preferredLanguage('en', ['zh-CN'])).toBe('en')
  expect(preferredLanguage(null, ['zh-Hans-CN', 'en'])).toBe('zh')
  expect(preferredLanguage(null, ['de-DE', 'en-GB', 'zh-CN'])).toBe('en')
  expect(preferredLanguage('klingon', ['de-DE'])).toBe('en')
})
