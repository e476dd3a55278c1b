/** The two languages of the console; which one is remembered, and at first taken from the browser. */

import { createI18n } from 'vue-i18n'
import type { Language } from '../api/types'
import en from './en'
import zh from './zh'

const REMEMBERED = 'forewarn.language'

/** The first language of the browser that the console speaks, else English. */
export function preferredLanguage(remembered: string | null, browser: readonly string[]): Language {
  if (remembered === 'zh' || remembered === 'en') return remembered
  for (const tag of browser) {
    if (/^zh\b/i.test(tag)) return 'zh'
    if (/^en\b/i.test(tag)) return 'en'
  }
  return 'en'
}

function remembered(): string | null {
  try {
    return localStorage.getItem(REMEMBERED)
  } catch {
    return null
  }
}

export const i18n = createI18n<false>({
  legacy: false,
  locale: preferredLanguage(remembered(), navigator.languages),
  fallbackLocale: 'en',
  messages: { en, zh } as Record<string, Record<string, unknown>> as never,
})

export function language(): Language {
  return i18n.global.locale.value as Language
}

/** Tells the browser which language the page is in: fonts and screen readers go by it. */
export function markLanguage(): void {
  document.documentElement.lang = language() === 'zh' ? 'zh-CN' : 'en'
}

export function setLanguage(next: Language): void {
  i18n.global.locale.value = next as never
  markLanguage()
  try {
    localStorage.setItem(REMEMBERED, next)
  } catch {
    // A browser that remembers nothing still shows the console.
  }
}
