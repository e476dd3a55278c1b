/** Data that keep themselves fresh: asked for again every ten seconds, kept when the server is away. */

import { onScopeDispose, ref, shallowRef, type Ref, type ShallowRef } from 'vue'
import { ApiError } from './api/client'

const REFRESH_MS = 10_000

export type Live<T> = {
  data: ShallowRef<T | null>
  /** When `data` came, by this browser's clock. */
  loaded_ms: Ref<number>
  error: ShallowRef<ApiError | null>
  refresh: () => Promise<void>
}

/** Calls `load` now, every ten seconds while the page is visible, and on `refresh`; an older call's answer never wins. */
export function useLive<T>(load: (signal: AbortSignal) => Promise<T>): Live<T> {
  const data = shallowRef<T | null>(null)
  const error = shallowRef<ApiError | null>(null)
  const loaded_ms = ref(0)
  let running: AbortController | null = null

  async function refresh(): Promise<void> {
    running?.abort()
    const mine = new AbortController()
    running = mine
    try {
      const fresh = await load(mine.signal)
      if (running !== mine) return
      data.value = fresh
      error.value = null
      loaded_ms.value = Date.now()
    } catch (failure) {
      if (running !== mine || mine.signal.aborted) return
      error.value = failure instanceof ApiError ? failure : new ApiError(-1, { error: 'console', detail: String(failure) })
    } finally {
      if (running === mine) running = null
    }
  }

  const tick = () => {
    // A slow answer is waited for, not overtaken.
    if (!document.hidden && !running) void refresh()
  }
  const timer = setInterval(tick, REFRESH_MS)
  document.addEventListener('visibilitychange', tick)
  onScopeDispose(() => {
    clearInterval(timer)
    document.removeEventListener('visibilitychange', tick)
    running?.abort()
    running = null
  })
  void refresh()
  return { data, loaded_ms, error, refresh }
}
