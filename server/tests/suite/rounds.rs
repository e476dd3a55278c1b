//! Rounds of forecasts over a real database: what there is no time for, what a restart loses (nothing), what heavy
//! fits may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use forewarn_common::block::{Block, Dictionary, Entity, EntityKind, Group, Header, Layout, Metric, Ticks, Urgent};
use forewarn_common::id::{EntityId, HostId};
use forewarn_common::metric::{Id, Kind, Unit};
use forewarn_server::intake::Intake;
use forewarn_server::judge::Judge;
use forewarn_server::model::forecast::{Because, State};
use forewarn_server::model::host::Host;
use forewarn_server::model::rule::default_rules;
use forewarn_server::notify::{Notifier, NotifySettings, Site};
use forewarn_server::outbox::Outbox;
use forewarn_server::schedule::{Doubt, Forecaster, Jobs, Tally, Timekeeper};
use forewarn_server::seal::Seal;
use forewarn_server::series::{CLOSE_AFTER_MS, STEP_MS};
use forewarn_server::settings::Settings;
use forewarn_server::share::Share;
use forewarn_server::store::{Arriving, Store, StoredForecast, Wanted};
use tokio::sync::watch;

const HOST: HostId = HostId([3; 16]);
const DAY: i64 = 288;
/// As the rounds have them: series read at once, heavy fits of a turn on a small host, buckets judged of a new series.
const READ_AT_ONCE: usize = 16;
const FITS_MAX: usize = 8;
const JUDGED_BUCKETS: u16 = 6;
const SERIES: usize = 40;
const HISTORY: i64 = 3 * DAY;
/// A day's begin.
const BEGIN_MS: i64 = 1_767_225_600_000;

/// A server's parts over a database of its own, and a forecaster whose clock is told what each look costs.
struct Place {
    _folder: tempfile::TempDir,
    jobs: Jobs,
    look_us: Arc<AtomicI64>,
    forecaster: Forecaster,
    metric: Id,
    value: fn(usize, i64) -> f64,
    pushed: i64,
}

fn forecaster(look_us: &Arc<AtomicI64>) -> Forecaster {
    let (look_us, spent_us) = (Arc::clone(look_us), AtomicI64::new(0));
    Forecaster::new(Arc::new(move || {
        let step_us = look_us.load(Ordering::Relaxed);
        spent_us.fetch_add(step_us, Ordering::Relaxed) + step_us
    }))
}

impl Place {
    /// One host with this metric of many disks or containers.
    async fn new(metric: Id, value: fn(usize, i64) -> f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::load(None, Some(folder.path())).unwrap();
        let url = format!("sqlite://{}", folder.path().join("forewarn.db").display());
        let (store, _) = Store::open(&url).await.unwrap();
        for rule in default_rules() {
            store.rule_save(&rule).await.unwrap();
        }
        let host = Host {
            id: HOST,
            name: "plant".into(),
            component: String::new(),
            enrolled_ms: BEGIN_MS,
            seen_ms: 0,
            skew_ms: 0,
            agent_version: String::new(),
        };
        store.host_enroll(&host, [1; 32]).await.unwrap();
        let notifier = Notifier::new(&NotifySettings { allow_loopback: false, ca_pem: String::new() }).unwrap();
        let words = Site { zone: settings.site.time_zone(), public_url: None };
        let share = Arc::new(Share::alone("one".into()));
        let outbox = Outbox::new(store.clone(), Seal::new(&[7; 32]), notifier, words, "one".into());
        let outbox = Arc::new(outbox);
        let judge = Judge::new(store.clone(), Arc::clone(&outbox), Arc::clone(&share), BEGIN_MS);
        let intake = Intake::start(store.clone(), settings.limits.blocks_in_flight_max);
        let jobs =
            Jobs { store, settings, intake, judge: Arc::new(judge), outbox, share, period: watch::channel(None).0 };
        let look_us = Arc::new(AtomicI64::new(0));
        let forecaster = forecaster(&look_us);
        let mut place = Self { _folder: folder, jobs, look_us, forecaster, metric, value, pushed: 0 };
        for _ in 0..HISTORY / 144 {
            place.push(144).await;
        }
        place
    }

    async fn push(&mut self, ticks: u16) {
        let metric = |instance: String| Metric {
            name: self.metric.spec().name.to_owned(),
            instance,
            kind: Kind::Gauge,
            unit: Unit::Ratio,
            decimals: 4,
        };
        let of_host = self.metric == Id::FsUsedRatio;
        // The first sample of a bucket is a step after its begin: its end.
        let start_ms = BEGIN_MS + (self.pushed + 1) * STEP_MS;
        let column =
            |i: usize| (0..i64::from(ticks)).map(|tick| (self.value)(i, self.pushed + tick)).collect::<Vec<_>>();
        let (layout, entities) = if of_host {
            let metrics = (0..SERIES).map(|i| metric(format!("/data{i:02}"))).collect();
            (Layout { metrics }, vec![EntityId::of_host(HOST)])
        } else {
            let ids = (0..SERIES).map(|i| EntityId(100 + i as u64)).collect();
            (Layout { metrics: vec![metric(String::new())] }, ids)
        };
        let group = |i: usize, entity: EntityId| Group {
            entity,
            layout: layout.id(),
            ticks: Ticks::all(ticks),
            columns: if of_host { (0..SERIES).map(column).collect() } else { vec![column(i)] },
        };
        let groups: Vec<Group> = entities.iter().enumerate().map(|(i, id)| group(i, *id)).collect();
        let kind = if of_host { EntityKind::Host } else { EntityKind::Workload };
        let record = |id: &EntityId| Entity {
            id: *id,
            kind,
            name: format!("{}", id.0),
            component: String::new(),
            attributes: Vec::new(),
        };
        let dictionary = Dictionary { layouts: vec![layout.clone()], entities: entities.iter().map(record).collect() };
        let header = Header {
            host: HOST,
            epoch: 1,
            seq: self.pushed as u64,
            start_ms,
            step_ms: STEP_MS as u32,
            ticks,
            boot_id: [1; 16],
            boot_ms: 1,
            closed_ms: start_ms + i64::from(ticks) * STEP_MS,
        };
        let urgent = Urgent { at_ms: start_ms, ..Urgent::default() };
        let block = Block { header, urgent, dictionary, groups };
        let arriving = Arriving::in_time(block, &[layout]).unwrap();
        let outcome = self.jobs.store.push(vec![arriving]).await.unwrap();
        assert!(outcome.iter().all(|one| one.stored));
        self.pushed += i64::from(ticks);
    }

    /// A bucket later, judged once.
    async fn next(&mut self) -> Tally {
        self.push(1).await;
        self.round().await
    }

    async fn round(&mut self) -> Tally {
        self.round_at(BEGIN_MS + self.pushed * STEP_MS + CLOSE_AFTER_MS + 1).await
    }

    async fn round_at(&mut self, now_ms: i64) -> Tally {
        let (_go_on, stop) = watch::channel(false);
        self.forecaster.round(&self.jobs, &stop, now_ms).await.unwrap();
        self.forecaster.last_period()
    }

    async fn answers(&self) -> Vec<StoredForecast> {
        let mut answers = self.jobs.store.forecasts(HOST).await.unwrap();
        answers.sort_by(|a, b| (&a.key, &a.rule).cmp(&(&b.key, &b.rule)));
        answers
    }

    fn restart(&mut self) {
        self.forecaster = forecaster(&self.look_us);
    }
}

/// A quarter fills up, a quarter is restless near its limit, the others are calm.
fn mixed(series: usize, bucket: i64) -> f64 {
    let noise = (bucket * 7919 + series as i64 * 104_729) % 31;
    let noise = noise as f64 / 31.0 - 0.5;
    match series % 4 {
        0 => (0.38 + 0.0006 * bucket as f64 + 0.002 * noise + series as f64 * 1e-4).min(0.99),
        1 => 0.7 + 0.25 * noise,
        _ => 0.2 + 0.01 * noise,
    }
}

#[tokio::test]
async fn what_there_was_no_time_for_is_judged_at_the_next_turn_as_if_in_time() {
    let mut in_time = Place::new(Id::MemUsedRatio, mixed).await;
    let mut late = Place::new(Id::MemUsedRatio, mixed).await;
    for place in [&mut in_time, &mut late] {
        let tally = place.next().await;
        assert_eq!((tally.judged, tally.left_over), (SERIES, 0));
        place.next().await;
    }
    let before = late.answers().await;
    assert_eq!(before, in_time.answers().await);
    let urgent = before.iter().filter(|known| known.forecast.probability >= 0.3).count();
    assert!((5..READ_AT_ONCE).contains(&urgent), "{urgent} are urgent");

    // Every look at the clock costs a minute: only what is urgent is judged, the calm pass as ever.
    late.look_us.store(60_000_000, Ordering::Relaxed);
    let (well, poor) = (in_time.next().await, late.next().await);
    assert_eq!((well.left_over, well.judged + well.calm), (0, SERIES));
    assert_eq!(poor.judged, urgent, "nobody who can wait takes time from others");
    assert_eq!(poor.judged + poor.calm + poor.left_over, SERIES);
    assert!(poor.left_over > 0 && poor.calm == well.calm, "{poor:?}, {well:?}");
    let (now, then) = (in_time.answers().await, late.answers().await);
    assert_eq!(then.len(), SERIES, "who was left over keeps the answer it had");
    for ((now, then), before) in now.iter().zip(&then).zip(&before) {
        assert!(then == now || then == before, "{:?}", then.key);
        assert!(before.forecast.probability < 0.3 || then == now, "urgent, and not judged: {:?}", then.key);
    }

    late.look_us.store(0, Ordering::Relaxed);
    in_time.next().await;
    assert_eq!(late.next().await.left_over, 0);
    assert_eq!(in_time.answers().await, late.answers().await, "as if it had been judged in time");
}

#[tokio::test]
async fn answers_after_a_restart_are_those_without_one() {
    let mut through = Place::new(Id::MemUsedRatio, mixed).await;
    let mut killed = Place::new(Id::MemUsedRatio, mixed).await;
    for round in 0..6 {
        if round == 2 || round == 5 {
            killed.restart();
        }
        through.next().await;
        killed.next().await;
        for (through, killed) in through.answers().await.iter().zip(&killed.answers().await) {
            if through.forecast.at_ms == killed.forecast.at_ms {
                assert_eq!(through, killed, "round {round}");
            } else {
                // Looked at in one, judged in full in the other.
                assert_eq!((through.forecast.state, killed.forecast.state), (State::Stable, State::Stable));
            }
        }
    }
    let warned = killed.answers().await.iter().filter(|known| known.forecast.warned).count();
    assert!(warned > 0, "the story is one of warnings");
}

#[tokio::test]
async fn a_turn_without_a_new_bucket_keeps_every_answer_after_a_restart_too() {
    let mut place = Place::new(Id::MemUsedRatio, mixed).await;
    place.next().await;
    let before = place.answers().await;
    assert!(before.iter().any(|known| known.forecast.warned), "the story is one of warnings");
    let told = place.jobs.store.open_incidents().await.unwrap();
    for restarted in [false, true] {
        if restarted {
            place.restart();
        }
        let now_ms = BEGIN_MS + place.pushed * STEP_MS + CLOSE_AFTER_MS;
        for later_ms in [60_000, STEP_MS - 1] {
            place.round_at(now_ms + later_ms).await;
            assert_eq!(place.answers().await, before, "{later_ms} ms later, {restarted}");
        }
    }
    assert_eq!(place.jobs.store.open_incidents().await.unwrap(), told);
}

#[tokio::test]
async fn clock_that_was_set_back_stops_no_forecast_and_ends_no_warning() {
    let mut place = Place::new(Id::MemUsedRatio, mixed).await;
    for _ in 0..3 {
        place.next().await;
    }
    let warned = |answers: &[StoredForecast]| answers.iter().filter(|known| known.forecast.warned).count();
    let before = warned(&place.answers().await);
    assert!(before > 0, "the story is one of warnings");
    // What comes by the right time from now on, is of the past for who had the wrong one.
    let set_back_ms = BEGIN_MS + (place.pushed - 12) * STEP_MS + CLOSE_AFTER_MS + 1;
    for restarted in [false, true] {
        if restarted {
            place.restart();
        }
        for round in 0..2 {
            let tally = place.round_at(set_back_ms + round * STEP_MS).await;
            assert_eq!((tally.judged + tally.calm, tally.left_over), (SERIES, 0), "round {round}, {restarted}");
        }
        assert_eq!(warned(&place.answers().await), before, "what stood, stands");
    }
}

/// Disks that all fill up in about a day.
fn filling(series: usize, bucket: i64) -> f64 {
    let noise = (bucket * 7919 + series as i64 * 104_729) % 31;
    0.1 + 0.000_75 * bucket as f64 + series as f64 * 1e-4 + 0.002 * (noise as f64 / 31.0 - 0.5)
}

#[tokio::test]
async fn a_history_that_comes_after_the_first_turn_warns_as_soon_as_one_that_was_there() {
    const REST: u16 = 144;
    let mut early = Place::new(Id::FsUsedRatio, filling).await;
    let mut late = Place::new(Id::FsUsedRatio, filling).await;
    // The first turn comes while half a day is still on its way.
    early.round_at(BEGIN_MS + (early.pushed + i64::from(REST)) * STEP_MS + CLOSE_AFTER_MS + 1).await;
    let first = early.answers().await;
    assert!(first.iter().all(|known| matches!(known.forecast.state, State::NoForecast { .. })));
    for place in [&mut early, &mut late] {
        place.push(REST).await;
        place.next().await;
    }
    assert_eq!(early.answers().await, late.answers().await);
    assert!(late.answers().await.iter().any(|known| known.forecast.warned), "the story is one of warnings");
}

#[tokio::test]
async fn heavy_fits_stay_within_their_budget_and_who_waits_says_so() {
    let mut place = Place::new(Id::FsUsedRatio, filling).await;
    // Past the turn of a fit by more than what is judged of a new series.
    place.push(2 * JUDGED_BUCKETS).await;
    let (mut fits, mut rounds) = (0, 0);
    loop {
        let tally = place.round().await;
        let answers = place.answers().await;
        let waits = |known: &&StoredForecast| known.forecast.reasons.contains(&Because::DecompositionWaits);
        let waiting = answers.iter().filter(waits).count();
        let fitted = |known: &&StoredForecast| {
            known.forecast.reasons.iter().any(|because| matches!(because, Because::Decomposition { .. }))
        };
        assert!(tally.fits <= FITS_MAX, "{tally:?}");
        assert_eq!((tally.judged, tally.fits_waiting), (SERIES, waiting));
        fits += tally.fits;
        // One fit a series of these even fills: nothing is refitted before its time.
        assert_eq!(answers.iter().filter(fitted).count(), fits);
        rounds += 1;
        if waiting == 0 {
            break;
        }
        place.push(1).await;
    }
    assert_eq!((fits, rounds), (SERIES, SERIES.div_ceil(FITS_MAX)));
}

#[tokio::test]
async fn a_server_whose_clock_is_set_ahead_makes_no_host_silent_and_deletes_nothing() {
    const MINUTE_MS: i64 = 60_000;
    const YEAR_MS: i64 = 365 * 86_400_000;
    let place = Place::new(Id::MemUsedRatio, mixed).await;
    let jobs = &place.jobs;
    let (mut keeper, mut doubt) = (Timekeeper::default(), Doubt::default());
    let heard_ms = jobs.store.host(HOST).await.unwrap().unwrap().seen_ms;
    let open = || async { jobs.store.open_incidents().await.unwrap().len() };
    let samples = || async {
        let read = jobs.store.read(HOST, Wanted::All, BEGIN_MS, heard_ms, STEP_MS).await.unwrap();
        read.series.iter().map(|series| series.points.len()).sum::<usize>()
    };
    let before = samples().await;
    jobs.tick(&mut keeper, heard_ms + MINUTE_MS, MINUTE_MS).await.unwrap();
    let ahead_ms = heard_ms + YEAR_MS;
    jobs.tick(&mut keeper, ahead_ms, MINUTE_MS + 5000).await.unwrap();
    assert_eq!(open().await, 0, "the year was not listened to");
    jobs.retain(&mut doubt, ahead_ms, MINUTE_MS).await.unwrap();
    assert_eq!(samples().await, before, "nobody has confirmed that a year has passed");

    // From then on it is listened again, and silence is silence.
    for minute in 1..=4 {
        jobs.tick(&mut keeper, ahead_ms + minute * MINUTE_MS, (minute + 1) * MINUTE_MS + 5000).await.unwrap();
    }
    assert_eq!(open().await, 1);
    // A host that has the server's time confirms it.
    let (mut settings, now_ms) = (jobs.settings.clone(), heard_ms + MINUTE_MS);
    (settings.store.full_days, settings.store.day_tier_days, settings.store.month_tier_days) = (1, 1, 1);
    Jobs { settings, ..jobs.clone() }.retain(&mut doubt, now_ms, MINUTE_MS).await.unwrap();
    assert!(samples().await < before);
}
