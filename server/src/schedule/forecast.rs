//! Rounds of forecasts: which series of a host are asked what, from which state, and where the answers go.
//! No judgement of its own: `forecast` says what will come, `judge` what becomes of an incident.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use forewarn_common::block::EntityKind;
use forewarn_common::id::{EntityId, HostId};
use tokio::sync::watch;

use super::Jobs;
use crate::adopted::{Adopted, site_model};
use crate::forecast;
use crate::model::host::Host;
use crate::model::rule::{Condition, Rule};
use crate::model::series::{SeriesInfo, SeriesKey};
use crate::store::{StoreError, StoredForecast, Wanted};

/// Of a history that is read anew the newest buckets are judged one by one, so that a warning can be confirmed.
const JUDGED_BUCKETS: i64 = 6;
/// Series read at once: two weeks at ten seconds of one are 121,000 points.
const SERIES_READ_MAX: usize = 10;

/// One question: a series against a rule's threshold.
#[derive(Debug, Clone)]
struct Question {
    rule: String,
    key: SeriesKey,
    threshold: f64,
    horizon_ms: i64,
}

/// State carried from round to round, with the time up to which it has read. Rebuilt from the store after a restart.
#[derive(Default)]
pub(super) struct Forecaster {
    states: HashMap<(String, SeriesKey), (i64, forecast::State)>,
    due_ms: HashMap<HostId, i64>,
}

impl Forecaster {
    fn of(&self, host: HostId) -> usize {
        self.states.keys().filter(|(_, key)| key.host == host).count()
    }

    /// Forecasts every host whose turn it is.
    ///
    /// # Errors
    /// The database does not answer; what is left is tried again at the next look.
    pub(super) async fn round(
        &mut self,
        jobs: &Jobs,
        stop: &watch::Receiver<bool>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let every_ms = jobs.settings.judge.forecast_every_ms;
        let hosts = jobs.store.hosts().await?;
        self.due_ms.retain(|id, _| hosts.iter().any(|host| host.id == *id));
        for host in hosts {
            if !jobs.share.owns(host.id) {
                // Another server goes on from the stored history; what was carried would be of the past.
                if self.due_ms.remove(&host.id).is_some() {
                    self.states.retain(|(_, key), _| key.host != host.id);
                }
                continue;
            }
            // At once when first seen; then a host's turn within the period follows from its id, so that hosts do
            // not come all at once.
            let stagger_ms = i64::from(u16::from_le_bytes([host.id.0[0], host.id.0[1]])) % every_ms;
            let due_ms = *self.due_ms.entry(host.id).or_insert(now_ms);
            if due_ms <= now_ms {
                let round_ms = now_ms - (now_ms - stagger_ms).rem_euclid(every_ms);
                self.due_ms.insert(host.id, round_ms + every_ms);
                forecast_host(jobs, &host, self, now_ms).await?;
            }
            if *stop.borrow() {
                break;
            }
        }
        Ok(())
    }
}

/// The questions that the rules ask of a host's series.
fn questions(rules: &[Rule], series: &[SeriesInfo], host: HostId) -> Vec<Question> {
    let own = EntityId::of_host(host);
    let asks = |rule: &Rule, info: &SeriesInfo| {
        let kind = if info.key.entity == own { EntityKind::Host } else { EntityKind::Workload };
        match &rule.condition {
            Condition::Threshold { metric, entity_kind, threshold, horizon_ms, .. }
                if *metric == info.key.metric && *entity_kind == kind =>
            {
                Some(Question {
                    rule: rule.id.clone(),
                    key: info.key.clone(),
                    threshold: *threshold,
                    horizon_ms: *horizon_ms,
                })
            }
            _ => None,
        }
    };
    rules
        .iter()
        .filter(|rule| rule.enabled)
        .flat_map(|rule| series.iter().filter_map(move |info| asks(rule, info)))
        .collect()
}

async fn forecast_host(jobs: &Jobs, host: &Host, carried: &mut Forecaster, now_ms: i64) -> Result<(), StoreError> {
    let judge = &jobs.settings.judge;
    let rules = jobs.judge.rules(now_ms).await?;
    let model = site_model(judge);
    let adopted = Arc::new(Adopted::load(&jobs.store).await?);
    // A carried state cuts its window at every 288th bucket: a rebuilt one must have read as far back.
    let history_ms = (model.window_buckets as i64 + 288) * model.step_ms;
    let questions = questions(&rules, &jobs.store.series(host.id, now_ms - history_ms).await?, host.id);
    // What is no longer asked is no longer carried.
    let asked: HashSet<(&str, &SeriesKey)> = questions.iter().map(|q| (q.rule.as_str(), &q.key)).collect();
    carried.states.retain(|(rule, key), _| key.host != host.id || asked.contains(&(rule.as_str(), key)));
    let standing =
        if questions.len() > carried.of(host.id) { jobs.judge.standing(host.id).await? } else { HashSet::new() };
    // Series that were read to the same time are read together.
    let mut spans: HashMap<i64, Vec<Question>> = HashMap::new();
    for question in questions {
        let read_to = carried.states.get(&(question.rule.clone(), question.key.clone())).map(|(read_to, _)| *read_to);
        spans.entry(read_to.unwrap_or(now_ms - history_ms).max(now_ms - history_ms)).or_default().push(question);
    }
    let newest_ms = now_ms - model.close_after_ms;
    let learn_to_ms = newest_ms - newest_ms.rem_euclid(model.step_ms) - JUDGED_BUCKETS * model.step_ms;
    let (mut answers, mut digests) = (Vec::new(), HashMap::new());
    // Some series at a time: two weeks of raw points of a whole host would not fit one answer of the store.
    let chunks = spans.into_iter().flat_map(|(from_ms, mut questions)| {
        questions.sort_by(|a, b| a.key.cmp(&b.key));
        let chunks: Vec<_> = questions.chunks(SERIES_READ_MAX).map(<[Question]>::to_vec).collect();
        chunks.into_iter().map(move |chunk| (from_ms, chunk))
    });
    for (from_ms, questions) in chunks {
        let mut keys: Vec<SeriesKey> = questions.iter().map(|question| question.key.clone()).collect();
        keys.sort();
        keys.dedup();
        // Raw points, so that the grid of the forecast is the only one that buckets.
        let read = jobs.store.read(host.id, Wanted::Series(keys), from_ms, now_ms, 0).await?;
        let points: HashMap<SeriesKey, Vec<(i64, f64)>> =
            read.series.into_iter().map(|series| (series.info.key, series.points)).collect();
        let mut work = Vec::with_capacity(questions.len());
        for question in questions {
            let name = (question.rule.clone(), question.key.clone());
            let state = carried.states.remove(&name).map(|(_, state)| state);
            work.push((question, state, name));
        }
        let (site, standing, adopted) = (model.clone(), standing.clone(), Arc::clone(&adopted));
        let component = host.component.clone();
        let judged = tokio::task::spawn_blocking(move || {
            work.into_iter()
                .map(|(question, state, name)| {
                    let points = points.get(&question.key).map(Vec::as_slice).unwrap_or_default();
                    let horizon_ms = question.horizon_ms;
                    let model = adopted.model(&question.rule, &question.key, &component, &site);
                    // Rebuilt: all but the newest buckets are learnt without judging each, in a fraction of the time.
                    let (state, points_left) = state.map_or_else(
                        || {
                            let (old, new) = points.split_at(points.partition_point(|point| point.0 <= learn_to_ms));
                            let warned = standing.contains(&(question.rule.clone(), question.key.clone()));
                            let empty = forecast::State::new(horizon_ms, &model);
                            let learnt =
                                forecast::learn(empty, old, horizon_ms, learn_to_ms + model.close_after_ms, &model);
                            (learnt.with_warning(warned), new)
                        },
                        |state| (state, points),
                    );
                    let (state, answer) =
                        forecast::step(state, points_left, question.threshold, horizon_ms, now_ms, &model);
                    let read_to = points.last().map_or(from_ms, |point| point.0 + 1);
                    (question, name, read_to, state, answer)
                })
                .collect::<Vec<_>>()
        })
        .await
        .map_err(|error| StoreError::Setup(format!("a forecast ended abnormally: {error}")))?;
        for (question, name, read_to, state, answer) in judged {
            if answer.warned {
                digests.insert(name.clone(), state.digest());
            }
            carried.states.insert(name, (read_to, state));
            answers.push(StoredForecast { key: question.key, rule: question.rule, forecast: answer });
        }
    }
    jobs.store.forecasts_put(host.id, now_ms, answers.clone()).await?;
    jobs.judge.forecasts(host, &answers, &digests, now_ms).await
}
