//! What happens by the clock: forecasts (staggered by host), silence and quiet, deliveries, compaction, retention.
//! Each job may run twice without harm, none is on the path of an arriving block, and a failing round is tried again.

mod book;
mod footprint;
mod forecast;
mod timekeeper;

use std::sync::Arc;
use std::time::Duration;

use forewarn_common::clock;
use forewarn_common::id::HostId;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::intake::Intake;
use crate::judge::Judge;
use crate::model::forecast::Period;
use crate::outbox::Outbox;
use crate::settings::Settings;
use crate::share::Share;
use crate::store::{Retention, Store, StoreError};
use footprint::Footprint;
pub use forecast::{Forecaster, Tally};
pub use timekeeper::{Doubt, Timekeeper};
use timekeeper::{Gap, Witness, witness};

/// How often due hosts and due deliveries are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How often retention runs.
const RETAIN_EVERY: Duration = Duration::from_secs(3600);
/// Time budget of one round of compaction or retention.
const JOB_BUDGET: Duration = Duration::from_secs(20);
const DAY_MS: i64 = 86_400_000;

/// What the jobs work with.
#[derive(Clone)]
pub struct Jobs {
    /// The database.
    pub store: Store,
    /// The settings.
    pub settings: Settings,
    /// Where blocks go.
    pub intake: Intake,
    /// Who judges.
    pub judge: Arc<Judge>,
    /// Who tells.
    pub outbox: Arc<Outbox>,
    /// Which server does what.
    pub share: Arc<Share>,
    /// What the forecasts of the last whole period came to.
    pub period: watch::Sender<Option<Period>>,
}

/// Starts all jobs; they end soon after `stop` turns true.
#[must_use]
pub fn start(jobs: &Jobs, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
    let tick = Duration::from_millis(jobs.settings.judge.tick_ms as u64);
    let compact = Duration::from_millis(jobs.settings.store.compact_every_ms as u64);
    let (forecaster, ticker, sender, compactor, keeper) =
        (jobs.clone(), jobs.clone(), jobs.clone(), jobs.clone(), jobs.clone());
    let measure_ms = jobs.settings.store.measure_every_ms;
    let (halt, merge_halt, retain_halt) = (stop.clone(), stop.clone(), stop.clone());
    let forecasts = Arc::new(Mutex::new(Forecaster::default()));
    let (timekeeper, doubt) = (Arc::new(Mutex::new(Timekeeper::default())), Arc::new(Mutex::new(Doubt::default())));
    let mut running = vec![
        every("forecast", LOOK, stop.clone(), move || {
            let (jobs, forecasts, stopping) = (forecaster.clone(), Arc::clone(&forecasts), halt.clone());
            async move { forecasts.lock().await.round(&jobs, &stopping, clock::wall_ms()).await }
        }),
        every("tick", tick, stop.clone(), move || {
            let (jobs, timekeeper) = (ticker.clone(), Arc::clone(&timekeeper));
            async move { jobs.tick(&mut *timekeeper.lock().await, clock::wall_ms(), clock::boot_ms()).await }
        }),
        every("delivery", LOOK, stop.clone(), move || {
            let jobs = sender.clone();
            // One server sends, so that what a robot takes in a minute is counted in one place.
            async move {
                if jobs.share.owns_job("delivery") { jobs.outbox.send_due(clock::wall_ms()).await } else { Ok(()) }
            }
        }),
        every("compaction", compact, stop.clone(), move || {
            let (jobs, stopping) = (compactor.clone(), merge_halt.clone());
            async move {
                // What one budget left is gone on with at once: a backlog may be more than a budget a period can merge.
                while jobs.share.owns_job("compaction") && !jobs.compact().await? && !*stopping.borrow() {}
                Ok(())
            }
        }),
        every("retention", RETAIN_EVERY, stop.clone(), move || {
            let (jobs, doubt, stopping) = (keeper.clone(), Arc::clone(&doubt), retain_halt.clone());
            async move {
                let mut doubt = doubt.lock().await;
                let mut retain = async || jobs.retain(&mut doubt, clock::wall_ms(), clock::boot_ms()).await;
                // As above: a large site has more to delete in an hour than one budget may.
                while jobs.share.owns_job("retention") && !retain().await? && !*stopping.borrow() {}
                Ok(())
            }
        }),
    ];
    if measure_ms > 0 {
        let (jobs, footprint) = (jobs.clone(), Arc::new(Mutex::new(Footprint::default())));
        running.push(every("footprint", Duration::from_millis(measure_ms as u64), stop.clone(), move || {
            let (jobs, footprint) = (jobs.clone(), Arc::clone(&footprint));
            async move {
                if jobs.share.owns_job("footprint") {
                    footprint.lock().await.tell(&jobs, clock::wall_ms()).await
                } else {
                    Ok(())
                }
            }
        }));
    }
    running
}

fn every<F, Fut>(name: &'static str, period: Duration, mut stop: watch::Receiver<bool>, job: F) -> JoinHandle<()>
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), StoreError>> + Send,
{
    tokio::spawn(async move {
        let mut failing = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let result = job().await;
            // Said once when it starts to fail and once when it works again, not every half second.
            match &result {
                Err(error) if !failing => tracing::error!(job = name, %error, "a job failed and will be tried again"),
                Ok(()) if failing => tracing::info!(job = name, "a job that had failed works again"),
                _ => {}
            }
            failing = result.is_err();
        }
    })
}

impl Jobs {
    /// False when there was more to do than the budget allowed.
    async fn compact(&self) -> Result<bool, StoreError> {
        let report = self.store.compact(clock::wall_ms(), JOB_BUDGET).await?;
        for damage in &report.damaged {
            tracing::error!("a row was passed over by compaction: {damage}");
        }
        if report.merges + report.folds > 0 {
            tracing::info!(?report, "pushed blocks were merged into hours, sums into days and months");
        }
        Ok(report.finished)
    }

    /// Judges silence and quiet, after a look at this server's own clocks.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn tick(&self, timekeeper: &mut Timekeeper, wall_ms: i64, boot_ms: i64) -> Result<(), StoreError> {
        let gap = timekeeper.look(wall_ms, boot_ms);
        match gap {
            Some(Gap::Jumped { by_ms }) => {
                tracing::warn!(by_ms, "this server's clock was set; the silence of hosts is counted from now");
            }
            Some(Gap::StoodStill { for_ms }) => {
                tracing::warn!(for_ms, "this server stood still; the silence of hosts is counted from now");
            }
            None => {}
        }
        if gap.is_some() {
            self.judge.listen_from(wall_ms);
        }
        self.judge.tick(wall_ms).await
    }

    /// Deletes what is past its retention, unless most hosts have another time. False when there was more than the
    /// budget allowed.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn retain(&self, doubt: &mut Doubt, wall_ms: i64, boot_ms: i64) -> Result<bool, StoreError> {
        self.store.sessions_expire(wall_ms).await?;
        let own = self.store.site_get(footprint::SITE_VALUE).await?.and_then(|id| Some(HostId(id.try_into().ok()?)));
        let said = witness(&self.store.hosts().await?, own, wall_ms);
        if let Witness::Contradicts { hosts, by_ms } = said {
            tracing::error!(hosts, by_ms, "most hosts have another time than this server: set its clock, or theirs");
        }
        if !doubt.may_delete(said, boot_ms) {
            tracing::warn!(?said, "nothing is deleted while no host confirms this server's clock");
            return Ok(true);
        }
        let store = &self.settings.store;
        let retention = Retention {
            full_ms: i64::from(store.full_days) * DAY_MS,
            day_ms: i64::from(store.day_tier_days) * DAY_MS,
            month_ms: i64::from(store.month_tier_days) * DAY_MS,
            log_ms: i64::from(store.log_days) * DAY_MS,
            incident_ms: i64::from(store.incident_days) * DAY_MS,
        };
        let report = self.store.retain(wall_ms, retention, JOB_BUDGET).await?;
        tracing::debug!(?report, "what is past its retention was deleted");
        Ok(report.finished)
    }
}
