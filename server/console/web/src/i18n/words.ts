/** The translator as the sentence builders take it, so that they can be tested without a page. */

import { i18n, language } from '.'
import type { Language } from '../api/types'

export type Words = {
  language: Language
  t: (key: string, named?: Record<string, unknown>, plural?: number) => string
  has: (key: string) => boolean
}

/** The words of the chosen language; read inside a render or a computed, it follows the choice. */
export function words(): Words {
  const { t, te } = i18n.global as unknown as {
    t: (key: string, named: Record<string, unknown>, plural?: number) => string
    te: (key: string, locale?: string) => boolean
  }
  return {
    language: language(),
    t: (key, named = {}, plural) => (plural === undefined ? t(key, named) : t(key, named, plural)),
    has: (key) => te(key) || te(key, 'en'),
  }
}
