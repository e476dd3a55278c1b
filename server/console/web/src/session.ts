/** Who is logged in. The cookie is out of reach for scripts; whether there may be one is remembered beside it. */

import { ref } from 'vue'
import { api, ApiError } from './api/client'

const REMEMBERED = 'forewarn.session'

export const user = ref<string | null>(null)

function remember(there: boolean): void {
  try {
    if (there) localStorage.setItem(REMEMBERED, 'yes')
    else localStorage.removeItem(REMEMBERED)
  } catch {
    // A browser that remembers nothing asks for the password again.
  }
}

function mayHaveSession(): boolean {
  try {
    return localStorage.getItem(REMEMBERED) !== null
  } catch {
    return false
  }
}

export async function login(name: string, password: string): Promise<void> {
  user.value = (await api.login({ user: name, password })).user
  remember(true)
}

export async function logout(): Promise<void> {
  // Without the server the cookie stays, and so does the way back in; the page is closed all the same.
  await api.logout().catch(() => {})
  forgetSession()
}

export function forgetSession(): void {
  user.value = null
  remember(false)
}

/** Asks the server once who the cookie belongs to; `false` without a session. Throws when the server is away. */
export async function restoreSession(): Promise<boolean> {
  if (user.value !== null) return true
  if (!mayHaveSession()) return false
  try {
    user.value = (await api.me()).user
    return true
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return false
    throw error
  }
}
