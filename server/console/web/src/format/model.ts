/** What a trained model is worth, and for which series, in words. Pure. */

import type { HostSummary, Report, Selection, TrainingRefusal } from '../api/types'
import type { Words } from '../i18n/words'
import { formatRatio } from './value'
import { formatSpan } from './time'

/** All series of a rule. */
export const ALL: Selection = { component: null, entity: null, host: null, instance: null }

/** Which series a training or an adoption means; a host that is gone is named by its id. */
export function selectionWords(words: Words, selection: Selection, hosts: readonly Pick<HostSummary, 'id' | 'name'>[]): string {
  const { host, component, entity, instance } = selection
  const scope = entity
    ? words.t('models.scope_entity')
    : host
      ? words.t('models.scope_host', { name: hosts.find((one) => one.id === host)?.name ?? host })
      : component
        ? words.t('models.scope_component', { name: component })
        : words.t('models.scope_all')
  return instance ? words.t('models.scope_instance', { scope, instance }) : scope
}

/** `4 of 5 crossings warned of in time, 1 false warnings; half of them 2 h or more ahead`. */
export function reportWords(words: Words, report: Report): string {
  const worth = words.t('models.worth', { warned: report.warned, crossings: report.crossings, wrong: report.false_warnings }, report.false_warnings)
  if (report.warned === 0) return worth
  return worth + words.t('common.clause') + words.t('models.worth_lead', { lead: formatSpan(report.lead_ms, words.language) })
}

/** Why nothing was trained. */
export function refusalWords(words: Words, refusal: TrainingRefusal): string {
  const span = (span_ms: number) => formatSpan(span_ms, words.language)
  switch (refusal.refusal) {
    case 'bad_settings':
      return words.t('refusal.bad_settings', { said: refusal.said })
    case 'too_short':
      return words.t('refusal.too_short', { have: span(refusal.have_ms), need: span(refusal.need_ms) })
    case 'too_few_crossings':
      return words.t('refusal.too_few_crossings', { before: refusal.chosen_on, after: refusal.reported_on })
    case 'no_better':
    case 'bad_question':
    case 'cancelled':
      return words.t(`refusal.${refusal.refusal}`)
  }
}

/** The probabilities of a row of the calibration: up to where the next one begins. */
export function probabilityWords(words: Words, rows: readonly { from_probability: number }[], at: number): string {
  const [from, to] = [rows[at]!.from_probability, rows[at + 1]?.from_probability]
  return to === undefined ? words.t('models.from_up', { from: formatRatio(from, 0) }) : words.t('models.between', { from: formatRatio(from, 0), to: formatRatio(to, 0) })
}
