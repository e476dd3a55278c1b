/** The drawing library, in a file of its own that is fetched when a plot is first shown. */

/** A box that holds a plot. */
export type PlotBox = HTMLElement & { on?: (event: string, then: (detail: Record<string, unknown> | null) => void) => void }

export type Plotly = {
  react: (box: HTMLElement, data: unknown[], layout: unknown, config: unknown) => Promise<unknown>
  purge: (box: HTMLElement) => void
}

export function plotly(): Promise<{ default: Plotly }> {
  return import('plotly.js-basic-dist-min') as unknown as Promise<{ default: Plotly }>
}
