/** Orders a host's series for picking. Pure. */

import type { SeriesView } from '../api/types'

const GROUPS: [name: string, prefixes: RegExp][] = [
  ['cpu', /^(cpu_|load_|procs_|uptime)/],
  ['memory', /^(mem_|swap_|oom_)/],
  ['disk', /^(fs_|disk_)/],
  ['network', /^net_/],
  ['pressure', /^pressure_/],
  ['container', /^(running|restarts|health|exit_code|pids)$/],
  ['log', /^log_/],
  ['agent', /^agent_/],
  ['scrape', /^scrape_/],
  ['other', /^/],
]

/** The series by group, in the order given within each; groups without any are left out. */
export function groupSeries(all: readonly SeriesView[]): { name: string; series: SeriesView[] }[] {
  const groups = GROUPS.map(([name]) => ({ name, series: [] as SeriesView[] }))
  for (const series of all) groups[GROUPS.findIndex(([, prefix]) => prefix.test(series.metric))]!.series.push(series)
  return groups.filter((group) => group.series.length > 0)
}
