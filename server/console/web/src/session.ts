/** Who is logged in. */

import { ref } from 'vue'
import { api, ApiError } from './api/client'

export const user = ref<string | null>(null)

/** Asks the server once who the cookie belongs to; `false` without a session. Throws when the server is away. */
export async function restoreSession(): Promise<boolean> {
  if (user.value !== null) return true
  try {
    user.value = (await api.me()).user
    return true
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return false
    throw error
  }
}
