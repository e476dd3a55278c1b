/** What every form does when it is sent: one problem at a time, in words, and never twice at once. */

import { ref, type Ref } from 'vue'
import { errorWords } from './tell'

export type Submit = {
  problem: Ref<string>
  busy: Ref<boolean>
  /** Shows `found` if there is something wrong with what was typed, else sends and shows what the server refuses. */
  submit: (found: string, send: () => Promise<void>) => Promise<void>
}

export function useSubmit(): Submit {
  const problem = ref('')
  const busy = ref(false)
  async function submit(found: string, send: () => Promise<void>): Promise<void> {
    problem.value = found
    if (found) return
    busy.value = true
    try {
      await send()
    } catch (error) {
      problem.value = errorWords(error)
    } finally {
      busy.value = false
    }
  }
  return { problem, busy, submit }
}
