import { effectScope } from 'vue'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { ApiError } from '../src/api/client'
import { useLive } from '../src/live'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const settle = () => vi.advanceTimersByTimeAsync(0)

it('data are asked for again every ten seconds, and kept while the server is away', async () => {
  const load = vi.fn().mockResolvedValueOnce('first').mockRejectedValueOnce(new ApiError(0, { error: 'unreachable', detail: '' })).mockResolvedValueOnce('third')
  const scope = effectScope()
  const live = scope.run(() => useLive<string>(load))!
  await settle()
  expect(live.data.value).toBe('first')
  await vi.advanceTimersByTimeAsync(10_000)
  expect(live.data.value).toBe('first')
  expect(live.error.value?.status).toBe(0)
  await vi.advanceTimersByTimeAsync(10_000)
  expect(live.data.value).toBe('third')
  expect(live.error.value).toBeNull()
  scope.stop()
  await vi.advanceTimersByTimeAsync(60_000)
  expect(load).toHaveBeenCalledTimes(3)
})

it('a slow server is waited for, and an older answer never replaces a newer one', async () => {
  const answers: ((text: string) => void)[] = []
  const signals: AbortSignal[] = []
  const scope = effectScope()
  const live = scope.run(() => useLive<string>((signal) => {
    signals.push(signal)
    return new Promise((resolve) => answers.push(resolve))
  }))!
  await vi.advanceTimersByTimeAsync(30_000)
  expect(answers).toHaveLength(1)
  void live.refresh()
  expect(signals[0]!.aborted).toBe(true)
  answers[1]!('new')
  answers[0]!('old')
  await settle()
  expect(live.data.value).toBe('new')
  scope.stop()
})

it('a page that nobody sees asks for nothing, and asks at once when it is seen again', async () => {
  const hidden = vi.spyOn(document, 'hidden', 'get').mockReturnValue(true)
  const load = vi.fn().mockResolvedValue('data')
  const scope = effectScope()
  scope.run(() => useLive<string>(load))
  await vi.advanceTimersByTimeAsync(60_000)
  expect(load).toHaveBeenCalledTimes(1)
  hidden.mockReturnValue(false)
  document.dispatchEvent(new Event('visibilitychange'))
  await settle()
  expect(load).toHaveBeenCalledTimes(2)
  scope.stop()
})
