/** Short notices: what went wrong, what was done. */

import { ApiError } from '../api/client'
import { i18n } from '../i18n'
import { ElMessage } from './element'

const t = (key: string, named: Record<string, unknown> = {}) => i18n.global.t(key, named)

/** What an error means for the reader. */
export function errorWords(error: unknown): string {
  if (!(error instanceof ApiError)) return String(error)
  if (error.status === 0) return t('error.unreachable_short')
  if (error.status === 404) return t('error.not_found')
  return error.refusal.detail ? t('error.refused', { detail: error.refusal.detail }) : t('error.status', { status: error.status })
}

export function tellError(error: unknown): void {
  ElMessage({ type: 'error', message: errorWords(error), duration: 6000, showClose: true, grouping: true })
}

export function tellDone(message: string): void {
  ElMessage({ type: 'success', message, duration: 2000, grouping: true })
}
