//! Questions to the whole fleet: the highest series of a metric, and how all of them are spread.

use std::collections::HashMap;
use std::sync::Arc;

use forewarn_common::id::{EntityId, HostId};
use forewarn_common::limit;
use forewarn_common::metric::CATALOGUE;
use http::StatusCode;
use warp::reply::Response;

use super::reply::{Refused, json};
use super::route::Call;
use super::{App, view};
use crate::store::RankBy;

const DAY_MS: i64 = 86_400_000;
/// Without a span in the question.
const SPAN_MS: i64 = DAY_MS;
/// Longest span: a month of the day tier.
const SPAN_MS_MAX: i64 = 31 * DAY_MS;
/// A question reads every host's days: these times the hosts are so many rows at most, about a minute's work.
const HOST_DAYS_MAX: i64 = 20_000;
/// Series of one answer; the names of each one's entities are looked up.
const TOP_MAX: i64 = 100;
const TOP: i64 = 10;
/// Shares of one question.
const SHARES_MAX: usize = 20;
const SHARES: [f64; 4] = [0.5, 0.9, 0.95, 0.99];
/// When another question is under way.
const RETRY_S: u64 = 5;

/// How the series are to be ranked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    Tier(RankBy),
    Now,
}

fn by(text: &str) -> Result<By, Refused> {
    Ok(By::Tier(match text {
        "max" => RankBy::Greatest,
        "mean" => RankBy::Mean,
        "last" => RankBy::Last,
        "p50" => RankBy::Share(0.5),
        "p90" => RankBy::Share(0.9),
        "p95" => RankBy::Share(0.95),
        "p99" => RankBy::Share(0.99),
        "now" => return Ok(By::Now),
        _ => return Err(Refused::bad_request("by must be max, mean, last, p50, p90, p95, p99 or now")),
    }))
}

fn shares(text: &str) -> Result<Vec<f64>, Refused> {
    if text.is_empty() {
        return Ok(SHARES.to_vec());
    }
    let parse = |text: &str| text.trim().parse().ok().filter(|share| (0.0..=1.0).contains(share));
    let shares: Option<Vec<f64>> = text.split(',').take(SHARES_MAX + 1).map(parse).collect();
    shares.filter(|shares| shares.len() <= SHARES_MAX).ok_or_else(|| {
        Refused::bad_request(format!("quantiles must be at most {SHARES_MAX} shares of one with commas between them"))
    })
}

pub(super) async fn rank(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let metric = call.text("metric");
    if metric.is_empty() || metric.len() > limit::NAME_BYTES_MAX {
        return Err(Refused::bad_request("metric must be the name of a metric, such as mem_used_ratio"));
    }
    let word = Some(call.text("by")).filter(|word| !word.is_empty()).unwrap_or("max");
    let (by, shares) = (by(word)?, shares(call.text("quantiles"))?);
    let to_ms = call.number("to_ms")?.unwrap_or(call.now_ms);
    let from_ms = call.number("from_ms")?.unwrap_or(to_ms.saturating_sub(SPAN_MS));
    let span_ms = to_ms.saturating_sub(from_ms);
    if !(1..=SPAN_MS_MAX).contains(&span_ms) {
        return Err(Refused::bad_request("from_ms must be before to_ms, and the span at most 31 days"));
    }
    let limit = call.number("limit")?.unwrap_or(TOP);
    let top = usize::try_from(limit).ok().filter(|_| (1..=TOP_MAX).contains(&limit));
    let top = top.ok_or_else(|| Refused::bad_request(format!("limit must be between 1 and {TOP_MAX}")))?;
    // One at a time: the database is there for the blocks first.
    let busy = |_| Refused::busy(RETRY_S, "another question to the whole fleet is under way; come back");
    let _turn = app.ranking.try_acquire().map_err(busy)?;
    let names: HashMap<HostId, String> =
        app.store.hosts().await?.into_iter().map(|host| (host.id, host.name)).collect();
    let ranking = match by {
        By::Now => {
            let urgent = CATALOGUE.iter().find(|spec| spec.urgent && spec.name == metric);
            let urgent = urgent.ok_or_else(|| {
                Refused::bad_request("by=now knows the metrics only that come with every block first; take by=last")
            })?;
            app.store.rank_latest(urgent.id, (from_ms, to_ms), top, &shares).await?
        }
        By::Tier(by) => {
            let days = span_ms / DAY_MS + 1;
            if days.saturating_mul(names.len() as i64) > HOST_DAYS_MAX {
                let detail = format!("hosts times days must be at most {HOST_DAYS_MAX}: narrow the span");
                return Err(Refused::bad_request(detail));
            }
            app.store.rank(metric, by, (from_ms, to_ms), top, &shares).await?
        }
    };
    let mut entities: HashMap<(HostId, EntityId), String> = HashMap::new();
    let mut top = Vec::with_capacity(ranking.top.len());
    for (key, value) in ranking.top {
        let host_name = names.get(&key.host).cloned().unwrap_or_default();
        if !entities.contains_key(&(key.host, key.entity)) {
            let known = app.store.entities(Some(key.host)).await?;
            entities.extend(known.into_iter().map(|known| ((key.host, known.entity.id), known.entity.name)));
        }
        let entity_name = entities.get(&(key.host, key.entity)).cloned().unwrap_or_else(|| host_name.clone());
        top.push(view::Ranked {
            host: key.host,
            host_name,
            entity: key.entity,
            entity_name,
            instance: key.instance,
            value,
        });
    }
    let spread = shares.into_iter().zip(ranking.quantiles).filter(|(_, value)| !value.is_nan());
    let rank = view::Rank {
        metric: metric.to_owned(),
        by: word.to_owned(),
        from_ms,
        to_ms,
        series: u32::try_from(ranking.series).unwrap_or(u32::MAX),
        quantiles: spread.map(|(share, value)| view::Quantile { share, value }).collect(),
        top,
        damaged_rows: u32::try_from(ranking.damaged.len()).unwrap_or(u32::MAX),
    };
    Ok(json(StatusCode::OK, &rank))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn words_and_shares_are_taken_or_refused_by_their_bounds() {
        assert_eq!(by("p95").unwrap(), By::Tier(RankBy::Share(0.95)));
        assert_eq!(by("now").unwrap(), By::Now);
        assert!(by("p96").is_err() && by("").is_err());
        assert_eq!(shares("").unwrap(), SHARES);
        assert_eq!(shares("0, 0.25,1").unwrap(), [0.0, 0.25, 1.0]);
        for bad in ["1.1", "-0.1", "nan", "half", "0.5,,1", ",", &"0.5,".repeat(50)] {
            assert!(shares(bad).is_err(), "{bad}");
        }
    }
}
