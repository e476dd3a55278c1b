//! Series and their points.

use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::{Kind, Unit};

/// Names one series of the site.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// Whose host.
    pub host: HostId,
    /// Which entity of it.
    pub entity: EntityId,
    /// Metric name.
    pub metric: String,
    /// Mount point and the like; empty where there is only one.
    pub instance: String,
}

/// What a series is.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesInfo {
    /// Its name.
    pub key: SeriesKey,
    /// Gauge or increment.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// Decimal places kept.
    pub decimals: i8,
}

/// One series over a span.
#[derive(Debug, Clone, PartialEq)]
pub struct Points {
    /// What it is.
    pub info: SeriesInfo,
    /// `(unix milliseconds, value)`, ascending. At a coarser resolution than stored: the mean of a gauge, the sum
    /// of an increment, at the bucket's end.
    pub points: Vec<(i64, f64)>,
}
