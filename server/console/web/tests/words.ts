import { createI18n } from 'vue-i18n'
import type { Language } from '../src/api/types'
import en from '../src/i18n/en'
import zh from '../src/i18n/zh'
import type { Words } from '../src/i18n/words'

/** The words of one language, as a page would have them; a missing message fails the test. */
export function wordsOf(language: Language): Words {
  const missing = (_: string, key: string) => {
    throw new Error(`no message ${key}`)
  }
  const { global } = createI18n({ legacy: false, locale: language, messages: { en, zh } as never, missing: missing as never })
  const { t, te } = global as unknown as { t: (key: string, named: Record<string, unknown>, plural?: number) => string; te: (key: string) => boolean }
  const flat = (text: string) => text.replaceAll('\u00a0', ' ')
  return { language, has: te, t: (key, named = {}, plural) => flat(plural === undefined ? t(key, named) : t(key, named, plural)) }
}
