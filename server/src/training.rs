//! Training as jobs: reads the histories that are asked for, lets the forecast room choose, keeps
//! what it chose. One at a time, since it takes a core; jobs live in memory, what they make does
//! not. No choice is made here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use forewarn_common::block::EntityKind;
use forewarn_common::clock;
use forewarn_common::id::EntityId;
use serde::{Deserialize, Serialize};

use crate::forecast::Model;
use crate::forecast::train::{self, Refusal};
use crate::model::rule::{Condition, Rule};
use crate::model::series::SeriesKey;
use crate::model::trained::{Selection, StoredModel};
use crate::store::{Store, StoreError, Wanted};

/// Jobs that are remembered.
const JOBS_MAX: usize = 50;
/// Points of all histories of one job, on the grid: a year of five minutes for fifty series.
const POINTS_MAX: usize = 5_300_000;
/// Progress is kept in thousandths.
const WHOLE: f64 = 1000.0;

/// What is to be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// What people will call it.
    pub name: String,
    /// For this rule: its metric, threshold and horizon.
    pub rule: Rule,
    /// On these of its series.
    pub selection: Selection,
    /// On their history from here
    pub from_ms: i64,
    /// to here.
    pub to_ms: i64,
}

/// What has become of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Outcome {
    /// It goes on.
    Running,
    /// It made this model.
    Trained {
        /// Its id.
        model: String,
    },
    /// There is no model, and why.
    Refused {
        /// Why, for programs.
        refusal: Refusal,
        /// Why, for people.
        said: String,
    },
    /// The server failed at it.
    Failed {
        /// What to do.
        said: String,
    },
}

/// A job as others see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrainingView {
    /// Hex of 8 random bytes.
    pub id: String,
    /// What people will call the model.
    pub name: String,
    /// The rule's id.
    pub rule: String,
    /// On which of its series.
    pub selection: Selection,
    /// When it began.
    pub started_ms: i64,
    /// Share done, 0..=1.
    pub progress_ratio: f64,
    /// Series whose history was read.
    pub series: u32,
    /// What has become of it.
    pub outcome: Outcome,
}

struct Job {
    id: String,
    wish: Wish,
    started_ms: i64,
    progress: AtomicU32,
    series: AtomicU32,
    cancel: AtomicBool,
    outcome: Mutex<Outcome>,
}

impl Job {
    fn view(&self) -> TrainingView {
        TrainingView {
            id: self.id.clone(),
            name: self.wish.name.clone(),
            rule: self.wish.rule.id.clone(),
            selection: self.wish.selection.clone(),
            started_ms: self.started_ms,
            progress_ratio: f64::from(self.progress.load(Ordering::Relaxed)) / WHOLE,
            series: self.series.load(Ordering::Relaxed),
            outcome: self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn is_running(&self) -> bool {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) == Outcome::Running
    }
}

/// Why a job was not begun.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// Another one runs.
    #[error("a training is running; wait for it or cancel it")]
    Busy,
    /// The rule has no threshold.
    #[error("only a rule with a threshold can be trained for")]
    NoThreshold,
    /// No randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// The trainings of this server.
#[derive(Clone)]
pub struct Trainings {
    store: Store,
    /// The site's settings, which a trained model changes in part.
    base: Model,
    jobs: Arc<Mutex<VecDeque<Arc<Job>>>>,
}

impl Trainings {
    /// No training yet.
    #[must_use]
    pub fn new(store: Store, base: Model) -> Self {
        Self { store, base, jobs: Arc::default() }
    }

    /// Begins a training.
    ///
    /// # Errors
    /// Another one runs, or the rule has no threshold.
    pub fn start(&self, wish: Wish, now_ms: i64) -> Result<TrainingView, TrainingError> {
        if !matches!(wish.rule.condition, Condition::Threshold { .. }) {
            return Err(TrainingError::NoThreshold);
        }
        let id = forewarn_common::id::random_u64().map_err(|error| TrainingError::Random(error.to_string()))?;
        let job = Arc::new(Job {
            id: format!("{id:016x}"),
            wish,
            started_ms: now_ms,
            progress: AtomicU32::new(0),
            series: AtomicU32::new(0),
            cancel: AtomicBool::new(false),
            outcome: Mutex::new(Outcome::Running),
        });
        {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            if jobs.iter().any(|job| job.is_running()) {
                return Err(TrainingError::Busy);
            }
            jobs.push_front(Arc::clone(&job));
            jobs.truncate(JOBS_MAX);
        }
        let view = job.view();
        let trainings = self.clone();
        tokio::spawn(async move {
            let outcome = trainings.run(&job).await.unwrap_or_else(|error| {
                tracing::error!(%error, job = job.id, "a training failed");
                Outcome::Failed { said: "the server failed at it; its log says why".to_owned() }
            });
            *job.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
        });
        Ok(view)
    }

    /// All jobs, the newest first.
    #[must_use]
    pub fn all(&self) -> Vec<TrainingView> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|job| job.view()).collect()
    }

    fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|job| job.id == id).cloned()
    }

    /// One job.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<TrainingView> {
        self.find(id).map(|job| job.view())
    }

    /// Cancels a job; it ends soon after. `None` when there is none.
    #[must_use]
    pub fn cancel(&self, id: &str) -> Option<TrainingView> {
        let job = self.find(id)?;
        job.cancel.store(true, Ordering::Relaxed);
        Some(job.view())
    }

    async fn run(&self, job: &Arc<Job>) -> Result<Outcome, StoreError> {
        let Condition::Threshold { threshold, horizon_ms, .. } = job.wish.rule.condition else {
            return Ok(refused(Refusal::BadQuestion));
        };
        let histories = self.histories(job).await?;
        if job.cancel.load(Ordering::Relaxed) {
            return Ok(refused(Refusal::Cancelled));
        }
        job.series.store(histories.len() as u32, Ordering::Relaxed);
        let (base, worker) = (self.base.clone(), Arc::clone(job));
        let trained = tokio::task::spawn_blocking(move || {
            train::train(&histories, threshold, horizon_ms, &base, &|done| {
                worker.progress.store((done * WHOLE) as u32, Ordering::Relaxed);
                !worker.cancel.load(Ordering::Relaxed)
            })
        })
        .await
        .map_err(|error| StoreError::Setup(format!("a training ended abnormally: {error}")))?;
        let trained = match trained {
            Ok(trained) => trained,
            Err(refusal) => return Ok(refused(refusal)),
        };
        let body = serde_json::to_string(&trained).map_err(|error| StoreError::Refused(error.to_string()))?;
        let wish = &job.wish;
        let (name, rule) = (wish.name.clone(), wish.rule.id.clone());
        let stored = StoredModel { id: job.id.clone(), name, rule, created_ms: clock::wall_ms(), body };
        self.store.model_add(&stored).await?;
        job.progress.store(WHOLE as u32, Ordering::Relaxed);
        Ok(Outcome::Trained { model: stored.id })
    }

    /// The histories of the series that are meant, on the grid of the forecast.
    async fn histories(&self, job: &Job) -> Result<Vec<Vec<(i64, f64)>>, StoreError> {
        let wish = &job.wish;
        let step_ms = self.base.step_ms;
        let (mut histories, mut points) = (Vec::new(), 0);
        for host in self.store.hosts().await? {
            let known = self.store.series(host.id, wish.from_ms).await?;
            let mut keys: Vec<SeriesKey> =
                known.into_iter().map(|info| info.key).filter(|key| asks(&wish.rule, key)).collect();
            keys.retain(|key| wish.selection.has(key, &host.component));
            keys.truncate(train::SERIES_MAX - histories.len());
            if keys.is_empty() {
                continue;
            }
            let read = self.store.read(host.id, Wanted::Series(keys), wish.from_ms, wish.to_ms, step_ms).await?;
            for mut series in read.series {
                // The store names a bucket by its start, the grid by its end.
                series.points.iter_mut().for_each(|point| point.0 += step_ms);
                points += series.points.len();
                if points <= POINTS_MAX && !series.points.is_empty() {
                    histories.push(series.points);
                }
            }
            if histories.len() >= train::SERIES_MAX || job.cancel.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(histories)
    }
}

fn refused(refusal: Refusal) -> Outcome {
    let said = refusal.to_string();
    Outcome::Refused { refusal, said }
}

/// Whether a rule asks about a series.
fn asks(rule: &Rule, key: &SeriesKey) -> bool {
    let kind = if key.entity == EntityId::of_host(key.host) { EntityKind::Host } else { EntityKind::Workload };
    matches!(&rule.condition, Condition::Threshold { metric, entity_kind, .. }
        if *metric == key.metric && *entity_kind == kind)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::time::Duration;

    use forewarn_common::block::{Block, Dictionary, Entity, Group, Header, Layout, Metric, Ticks, Urgent};
    use forewarn_common::id::HostId;
    use forewarn_common::metric::Id;

    use super::*;
    use crate::model::host::Host;
    use crate::model::rule::default_rules;
    use crate::store::Arriving;

    const T0: i64 = 1_767_225_600_000;
    const STEP_MS: i64 = 300_000;
    const TICKS: u16 = 1440;

    /// Five days of a filesystem that fills to 95 % and is emptied, every eight hours.
    fn teeth(mount: &str) -> Vec<f64> {
        let start = if mount == "/data" { 0 } else { 40 };
        (0..i64::from(TICKS)).map(|tick| ((tick + start) % 96) as f64 / 101.0).collect()
    }

    async fn site(folder: &tempfile::TempDir) -> Store {
        let url = format!("sqlite://{}", folder.path().join("forewarn.db").display());
        let store = Store::open(&url).await.unwrap().0;
        let host = HostId([3; 16]);
        let known = Host {
            id: host,
            name: "plant-3".into(),
            component: "db".into(),
            enrolled_ms: T0,
            seen_ms: T0,
            skew_ms: 0,
            agent_version: "0.1.0".into(),
        };
        store.host_enroll(&known, [1; 32]).await.unwrap();
        let entity = EntityId::of_host(host);
        let layout = Layout { metrics: vec![Metric::of(Id::FsUsedRatio, "/data"), Metric::of(Id::FsUsedRatio, "/")] };
        let record = Entity {
            id: entity,
            kind: EntityKind::Host,
            name: "plant-3".into(),
            component: "db".into(),
            attributes: Vec::new(),
        };
        let dictionary = Dictionary { layouts: vec![layout.clone()], entities: vec![record] };
        let (all, part) = ([teeth("/data"), teeth("/")], 144);
        for seq in 0..u64::from(TICKS / part) {
            let from = seq as usize * usize::from(part);
            let start_ms = T0 + from as i64 * STEP_MS;
            let header = Header {
                host,
                epoch: 1,
                seq,
                start_ms,
                step_ms: STEP_MS as u32,
                ticks: part,
                boot_id: [1; 16],
                boot_ms: 1,
                closed_ms: start_ms + i64::from(part) * STEP_MS,
            };
            let columns = all.iter().map(|values| values[from..from + usize::from(part)].to_vec()).collect();
            let groups = vec![Group { entity, layout: layout.id(), ticks: Ticks::all(part), columns }];
            let urgent = Urgent { at_ms: header.closed_ms, ..Urgent::default() };
            let block = Block { header, urgent, dictionary: dictionary.clone(), groups };
            let arriving = Arriving::in_time(block, std::slice::from_ref(&layout)).unwrap();
            store.push(vec![arriving]).await.unwrap();
        }
        store
    }

    fn wish(rule: &str, instance: Option<&str>) -> Wish {
        let mut rule = default_rules().into_iter().find(|known| known.id == rule).unwrap();
        if let Condition::Threshold { horizon_ms, .. } = &mut rule.condition {
            *horizon_ms = 3_600_000;
        }
        let selection = Selection { instance: instance.map(str::to_owned), ..Selection::default() };
        let to_ms = T0 + i64::from(TICKS) * STEP_MS;
        Wish { name: "teeth".into(), rule, selection, from_ms: T0, to_ms }
    }

    async fn end(trainings: &Trainings, id: &str) -> TrainingView {
        for _ in 0..600 {
            let view = trainings.get(id).unwrap();
            if view.outcome != Outcome::Running {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the training does not end");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_training_runs_at_a_time_can_be_cancelled_and_says_why_there_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        let trainings = Trainings::new(site(&folder).await, Model::default());
        let refused = trainings.start(wish("keyword", None), T0);
        assert!(matches!(refused, Err(TrainingError::NoThreshold)));

        let first = trainings.start(wish("disk", None), T0).unwrap();
        assert!(matches!(trainings.start(wish("disk", None), T0), Err(TrainingError::Busy)));
        assert_eq!(trainings.cancel(&first.id).unwrap().id, first.id);
        let ended = end(&trainings, &first.id).await;
        assert!(matches!(ended.outcome, Outcome::Refused { refusal: Refusal::Cancelled, .. }), "{:?}", ended.outcome);

        let none = trainings.start(wish("memory", None), T0 + 1).unwrap();
        let ended = end(&trainings, &none.id).await;
        assert!(matches!(ended.outcome, Outcome::Refused { refusal: Refusal::BadQuestion, .. }), "{:?}", ended.outcome);
        assert_eq!(trainings.all().len(), 2);
        assert!(trainings.get("nobody").is_none() && trainings.cancel("nobody").is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_training_reads_the_selected_series_and_ends_with_a_model_or_a_measured_refusal() {
        let folder = tempfile::tempdir().unwrap();
        let store = site(&folder).await;
        let trainings = Trainings::new(store.clone(), Model::default());
        let job = trainings.start(wish("disk", Some("/data")), T0).unwrap();
        let ended = end(&trainings, &job.id).await;
        assert_eq!(ended.series, 1);
        match ended.outcome {
            Outcome::Trained { model } => {
                let kept = store.model(&model).await.unwrap().unwrap();
                assert_eq!(kept.rule, "disk");
                let trained: train::TrainedModel = serde_json::from_str(&kept.body).unwrap();
                assert!(trained.report.crossings >= 2 && trained.threshold == 0.9);
            }
            Outcome::Refused { refusal: Refusal::NoBetter { default_report, .. }, .. } => {
                // Fifteen teeth, of which two in five days lie in the last part.
                assert!((4..=6).contains(&default_report.crossings), "{default_report:?}");
                assert!(store.models().await.unwrap().is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
}
