//! Questions to the whole fleet, answered from the day tier: which series are highest, and how they are spread.

use forewarn_common::id::HostId;
use forewarn_common::metric::Id;

use super::summary::DAY_STEP_MS;
use super::{Latest, Store, StoreError, Wanted};
use crate::model::series::SeriesKey;

/// Series that one answer names at most.
const TOP_MAX: usize = 1000;

/// By what series are ranked; each is over the means of five minutes within the span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RankBy {
    /// Their mean.
    Mean,
    /// The greatest.
    Greatest,
    /// The newest.
    Last,
    /// The one below which this share of them lies, 0.95 for instance.
    Share(f64),
}

/// The spread of one metric over the fleet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranking {
    /// The highest series, highest first.
    pub top: Vec<(SeriesKey, f64)>,
    /// How many series were looked at.
    pub series: usize,
    /// The values below which the asked shares of the series lie, in the order asked.
    pub quantiles: Vec<f64>,
    /// Rows that could not be read and were passed over: a sentence each, with host and span.
    pub damaged: Vec<String>,
}

impl Store {
    /// Ranks all series of a metric in `(from_ms, to_ms]`, host by host: the `top` highest, and `quantiles` (shares of
    /// one) over all.
    ///
    /// # Errors
    /// The database does not answer, or the span is empty.
    pub async fn rank(
        &self,
        metric: &str,
        by: RankBy,
        (from_ms, to_ms): (i64, i64),
        top: usize,
        quantiles: &[f64],
    ) -> Result<Ranking, StoreError> {
        let hosts: Vec<HostId> = self.hosts().await?.into_iter().map(|host| host.id).collect();
        let (mut all, mut damaged) = (Vec::new(), Vec::new());
        for host in hosts {
            let wanted = Wanted::Metrics(vec![metric.to_owned()]);
            let reading = self.means(host, wanted, from_ms, to_ms, DAY_STEP_MS).await?;
            damaged.extend(reading.damaged);
            for series in reading.series {
                let values = || series.points.iter().map(|point| point.1);
                let value = match by {
                    RankBy::Mean => values().sum::<f64>() / series.points.len() as f64,
                    RankBy::Greatest => values().fold(f64::NEG_INFINITY, f64::max),
                    RankBy::Last => values().next_back().unwrap_or(f64::NAN),
                    RankBy::Share(share) => {
                        let mut sorted: Vec<f64> = values().collect();
                        sorted.sort_by(f64::total_cmp);
                        at_share(&sorted, share)
                    }
                };
                if !value.is_nan() {
                    all.push((series.info.key, value));
                }
            }
        }
        Ok(Ranking::of(all, top, quantiles, damaged))
    }

    /// Ranks the last values that the hosts have sent and that were taken in `(from_ms, to_ms]`, in one query. Only of
    /// urgent metrics: no others are kept so.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rank_latest(
        &self,
        metric: Id,
        (from_ms, to_ms): (i64, i64),
        top: usize,
        quantiles: &[f64],
    ) -> Result<Ranking, StoreError> {
        let mut all = Vec::new();
        let fresh = |latest: &Latest| from_ms < latest.at_ms && latest.at_ms <= to_ms;
        for Latest { host, values, .. } in self.latest_all().await?.into_iter().filter(fresh) {
            for last in values.into_iter().filter(|last| last.metric == metric && !last.value.is_nan()) {
                let metric = metric.spec().name.to_owned();
                all.push((SeriesKey { host, entity: last.entity, metric, instance: last.instance }, last.value));
            }
        }
        Ok(Ranking::of(all, top, quantiles, Vec::new()))
    }
}

impl Ranking {
    fn of(mut all: Vec<(SeriesKey, f64)>, top: usize, shares: &[f64], damaged: Vec<String>) -> Self {
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let sorted: Vec<f64> = all.iter().rev().map(|(_, value)| *value).collect();
        let quantiles = shares.iter().map(|share| at_share(&sorted, *share)).collect();
        let series = all.len();
        all.truncate(top.min(TOP_MAX));
        Self { top: all, series, quantiles, damaged }
    }
}

/// Of n values in order the one at a share: the smallest with at least that share at or below it.
fn at_share(sorted: &[f64], share: f64) -> f64 {
    let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
