//! The metric catalogue: every series that the agent makes by itself, with its kind, unit and precision.
//!
//! Numbers of [`Id`] go over the wire and are never reused. A new metric is one line in `catalogue!`.

use serde::{Deserialize, Serialize};

/// How a value behaves in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A level; coarser tiers keep mean, min, max, last and count.
    Gauge,
    /// What was added since the last tick; coarser tiers keep sum, max and count.
    Increment,
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A plain number.
    Count,
    /// A share of one, 0.9 = 90 %.
    Ratio,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
}

impl Unit {
    /// The unit's number on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Count => 0,
            Self::Ratio => 1,
            Self::Bytes => 2,
            Self::Milliseconds => 3,
        }
    }

    /// The unit of a number on the wire.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Count, Self::Ratio, Self::Bytes, Self::Milliseconds].get(usize::from(code)).copied()
    }
}

/// The unit of a metric told by its name, as the catalogue's and those of Prometheus exporters tell it.
#[must_use]
pub fn unit_of_name(name: &str) -> Unit {
    match name.rsplit_once('_') {
        Some((_, "ratio")) => Unit::Ratio,
        Some((_, "bytes")) => Unit::Bytes,
        Some((_, "ms" | "milliseconds")) => Unit::Milliseconds,
        _ => Unit::Count,
    }
}

/// One line of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Its number in the urgent section.
    pub id: Id,
    /// Its name in layouts, API and console.
    pub name: &'static str,
    /// Gauge or increment.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// Decimal places that mean something; negative rounds to tens, thousands, …
    pub decimals: i8,
    /// Whether the last value of a block travels in the urgent section, where breach checks read it.
    pub urgent: bool,
}

macro_rules! catalogue {
    ($($variant:ident = $number:literal, $name:literal, $kind:ident, $unit:ident, $decimals:literal, $urgent:literal, $doc:literal;)*) => {
        /// A metric of the catalogue.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Id { $(#[doc = $doc] $variant = $number,)* }

        /// All metrics of the catalogue, ascending by number.
        pub const CATALOGUE: &[Spec] = &[
            $(Spec { id: Id::$variant, name: $name, kind: Kind::$kind, unit: Unit::$unit, decimals: $decimals, urgent: $urgent },)*
        ];

        impl Id {
            /// The catalogue's line of this metric.
            #[must_use]
            pub fn spec(self) -> &'static Spec {
                match self { $(Id::$variant => const { &Spec { id: Id::$variant, name: $name, kind: Kind::$kind, unit: Unit::$unit, decimals: $decimals, urgent: $urgent } },)* }
            }

            /// The metric of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Id::$variant),)* _ => None }
            }

            /// The metric of a number on the wire.
            #[must_use]
            pub fn from_code(code: u16) -> Option<Self> {
                match code { $($number => Some(Id::$variant),)* _ => None }
            }
        }
    };
}

catalogue! {
    CpuUsed = 1, "cpu_used_ratio", Gauge, Ratio, 4, true, "CPU not idle: of the host, or of the container's own limit.";
    CpuUser = 2, "cpu_user_ratio", Gauge, Ratio, 4, false, "CPU in user mode, nice included.";
    CpuSystem = 3, "cpu_system_ratio", Gauge, Ratio, 4, false, "CPU in the kernel.";
    CpuIowait = 4, "cpu_iowait_ratio", Gauge, Ratio, 4, false, "CPU idle while a disk is awaited.";
    CpuIrq = 5, "cpu_irq_ratio", Gauge, Ratio, 4, false, "CPU in hard and soft interrupts.";
    CpuSteal = 6, "cpu_steal_ratio", Gauge, Ratio, 4, false, "CPU taken by the hypervisor.";
    CpuCores = 7, "cpu_used_cores", Gauge, Count, 3, false, "Cores that a container used.";
    CpuThrottled = 8, "cpu_throttled_ratio", Gauge, Ratio, 4, false, "Share of scheduler periods in which the container was throttled.";
    CpuCount = 9, "cpu_count", Gauge, Count, 0, false, "Cores of the host.";
    Load1 = 10, "load_1m", Gauge, Count, 2, false, "Load average over a minute.";
    Load5 = 11, "load_5m", Gauge, Count, 2, false, "Load average over five minutes.";
    Load15 = 12, "load_15m", Gauge, Count, 2, false, "Load average over fifteen minutes.";
    ProcsRunning = 13, "procs_running", Gauge, Count, 0, false, "Runnable threads.";
    ProcsBlocked = 14, "procs_blocked", Gauge, Count, 0, false, "Threads that wait for a disk.";
    Uptime = 15, "uptime_ms", Gauge, Milliseconds, -3, false, "Time since boot.";

    MemTotal = 20, "mem_total_bytes", Gauge, Bytes, 0, false, "Memory of the host.";
    MemAvailable = 21, "mem_available_bytes", Gauge, Bytes, -4, false, "Memory that a new program could have.";
    MemUsed = 22, "mem_used_bytes", Gauge, Bytes, -4, false, "Total less available; a container's working set.";
    MemUsedRatio = 23, "mem_used_ratio", Gauge, Ratio, 4, true, "Used share of the host's memory or of the container's limit.";
    MemLimit = 24, "mem_limit_bytes", Gauge, Bytes, 0, false, "A container's own limit; missing without one.";
    SwapTotal = 25, "swap_total_bytes", Gauge, Bytes, 0, false, "Swap of the host.";
    SwapUsed = 26, "swap_used_bytes", Gauge, Bytes, -4, false, "Swap in use.";
    SwapUsedRatio = 27, "swap_used_ratio", Gauge, Ratio, 4, true, "Used share of swap; missing without swap.";
    OomKills = 28, "oom_kills", Increment, Count, 0, false, "Processes killed for want of memory.";

    FsUsedRatio = 40, "fs_used_ratio", Gauge, Ratio, 4, true, "Used share of a filesystem as df says it: used / (used + available).";
    FsUsed = 41, "fs_used_bytes", Gauge, Bytes, -4, false, "Used bytes of a filesystem.";
    FsTotal = 42, "fs_total_bytes", Gauge, Bytes, 0, false, "Size of a filesystem.";
    FsInodeUsedRatio = 43, "fs_inode_used_ratio", Gauge, Ratio, 4, true, "Used share of a filesystem's inodes.";

    DiskRead = 50, "disk_read_bytes", Increment, Bytes, -2, false, "Read from a disk, or by a container.";
    DiskWrite = 51, "disk_write_bytes", Increment, Bytes, -2, false, "Written to a disk, or by a container.";
    DiskReads = 52, "disk_reads", Increment, Count, 0, false, "Read requests of a disk.";
    DiskWrites = 53, "disk_writes", Increment, Count, 0, false, "Write requests of a disk.";
    DiskBusy = 54, "disk_busy_ratio", Gauge, Ratio, 3, false, "Share of time with a request under way.";

    NetRx = 60, "net_rx_bytes", Increment, Bytes, -1, false, "Received.";
    NetTx = 61, "net_tx_bytes", Increment, Bytes, -1, false, "Sent.";
    NetRxErrors = 62, "net_rx_errors", Increment, Count, 0, false, "Receive errors and drops.";
    NetTxErrors = 63, "net_tx_errors", Increment, Count, 0, false, "Send errors and drops.";

    PressureCpu = 70, "pressure_cpu_some_ratio", Gauge, Ratio, 4, false, "Share of time in which some task waited for a CPU.";
    PressureMemSome = 71, "pressure_mem_some_ratio", Gauge, Ratio, 4, false, "Share of time in which some task waited for memory.";
    PressureMemFull = 72, "pressure_mem_full_ratio", Gauge, Ratio, 4, false, "Share of time in which all tasks waited for memory.";
    PressureIoSome = 73, "pressure_io_some_ratio", Gauge, Ratio, 4, false, "Share of time in which some task waited for a disk.";
    PressureIoFull = 74, "pressure_io_full_ratio", Gauge, Ratio, 4, false, "Share of time in which all tasks waited for a disk.";

    Running = 80, "running", Gauge, Count, 0, true, "1 while a container runs, 0 after it has ended.";
    Restarts = 81, "restarts", Increment, Count, 0, false, "Restarts of a container.";
    Health = 82, "health", Gauge, Count, 0, true, "Health check: 0 healthy, 1 starting, 2 unhealthy; missing without one.";
    ExitCode = 83, "exit_code", Gauge, Count, 0, false, "Exit code of the last end of a container.";
    Pids = 84, "pids", Gauge, Count, 0, false, "Processes and threads of a container.";

    LogLines = 90, "log_lines", Increment, Count, 0, false, "Log lines read.";
    LogBytes = 91, "log_bytes", Increment, Bytes, 0, false, "Log bytes read.";
    LogHits = 92, "log_hits", Increment, Count, 0, false, "Lines that matched the keyword rule named by the instance.";
    LogLost = 93, "log_lost_bytes", Increment, Bytes, 0, false, "Log bytes that were rotated away before they could be read.";
    LogCut = 94, "log_cut_lines", Increment, Count, 0, false, "Lines longer than the bound, matched up to it.";

    AgentCpu = 100, "agent_cpu_ms", Increment, Milliseconds, 1, false, "CPU time of the agent itself.";
    AgentRss = 101, "agent_rss_bytes", Gauge, Bytes, -4, false, "Resident memory of the agent itself.";
    SpoolBytes = 102, "agent_spool_bytes", Gauge, Bytes, -2, false, "Unsent blocks on disk.";
    SpoolDropped = 103, "agent_dropped_blocks", Increment, Count, 0, false, "Blocks that were dropped: the spool was full, they were damaged, or the server refused them.";
    LateTicks = 104, "agent_late_ticks", Increment, Count, 0, false, "Samples that were skipped because the host was too busy.";
    UnwatchedLogs = 105, "agent_unwatched_logs", Gauge, Count, 0, false, "Log files that the kernel does not tell about and that are looked at every `poll_interval_ms`.";

    ScrapeFailed = 110, "scrape_failed", Gauge, Count, 0, true, "1 when an endpoint's page could not be read, 0 when it was.";
    ScrapeSeries = 111, "scrape_series", Gauge, Count, 0, false, "Series of an endpoint that are kept.";
    ScrapeLeftOut = 112, "scrape_left_out", Gauge, Count, 0, false, "Series of an endpoint for which there was no room.";
    ScrapeRefused = 113, "scrape_refused", Increment, Count, 0, false, "Lines of an endpoint that are no sample, or no number.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_ascending() {
        for pair in CATALOGUE.windows(2) {
            assert!((pair[0].id as u16) < pair[1].id as u16, "{}", pair[1].name);
        }
        let names: std::collections::HashSet<_> = CATALOGUE.iter().map(|spec| spec.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
    }

    #[test]
    fn every_number_and_every_name_finds_its_metric_and_a_name_tells_its_unit() {
        for spec in CATALOGUE {
            assert_eq!(Id::from_code(spec.id as u16), Some(spec.id));
            assert_eq!(Id::from_name(spec.name), Some(spec.id));
            assert_eq!(unit_of_name(spec.name), spec.unit, "{}", spec.name);
            assert_eq!(spec.id.spec(), spec);
        }
        assert_eq!(Id::from_code(0), None);
    }
}
