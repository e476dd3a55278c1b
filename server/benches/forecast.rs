//! What a forecast costs: one five-minute step of a series with 14 days of state, as the live path takes it (with the
//! band), learning those 14 days again, and a heavy fit, beside the library fitting the same 14 days itself.
//! The path of a live round without its database; nothing is judged here but time.
//!
//!     cargo bench -p forewarn-server --bench forecast

#![allow(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to measure")]
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

#[path = "../tests/suite/stories.rs"]
mod stories;

use augurs::ets::AutoETS;
use augurs::mstl::MSTLModel;
use augurs::prelude::*;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use forewarn_server::forecast::{Model, State, learn, step};
use stories::{DAY, Dice, STEP_MS};

const HORIZONS: [(&str, i64); 3] = [("1h", 12), ("4h", 48), ("24h", 288)];
const DAYS: usize = 14;
const THRESHOLD: f64 = 90.0;

/// A load with a day in it that wanders: no special case of any expert.
fn wandering(buckets: usize) -> Vec<(i64, f64)> {
    let mut dice = Dice::new(12);
    let mut level: f64 = 40.0;
    let value = |i: usize| {
        level = (level + dice.between(-0.5, 0.5)).clamp(5.0, 80.0);
        level + 5.0 * (i as f64 / DAY as f64 * std::f64::consts::TAU).sin() + dice.unit()
    };
    stories::points(&(0..buckets).map(value).collect::<Vec<_>>())
}

fn steps(c: &mut Criterion) {
    let points = wandering(DAYS * DAY + 50);
    let (past, next) = points.split_at(DAYS * DAY);
    let now_ms = past.last().unwrap().0;
    for (name, buckets) in HORIZONS {
        let horizon_ms = buckets * STEP_MS;
        for (with, band_points) in [("band", Model::default().band_points), ("no band", 0)] {
            let model = Model { close_after_ms: 0, band_points, ..Model::default() };
            let state = learn(State::new(horizon_ms, &model), past, horizon_ms, now_ms, &model);
            // The first judged step makes room and, on long horizons, may fit: the one after it is the usual one.
            let state = step(state, &next[..1], THRESHOLD, horizon_ms, next[0].0, &model).0;
            c.bench_function(&format!("step/{name}/{with}"), |b| {
                b.iter_batched(
                    || state.clone(),
                    |state| step(state, &next[1..2], THRESHOLD, horizon_ms, next[1].0, &model),
                    BatchSize::LargeInput,
                );
            });
        }
        let model = Model { close_after_ms: 0, ..Model::default() };
        c.bench_function(&format!("learn 14 days/{name}"), |b| {
            b.iter(|| learn(State::new(horizon_ms, &model), past, horizon_ms, now_ms, &model));
        });
    }
}

fn heavy(c: &mut Criterion) {
    // The library on the grid as it is, and what a fit of ours hands to it: hourly means of the same days.
    let values: Vec<f64> = wandering(DAYS * DAY).iter().map(|p| p.1 / 100.0).collect();
    let hourly: Vec<f64> = values.chunks(12).map(|hour| hour.iter().sum::<f64>() / 12.0).collect();
    let week = &values[values.len() - 7 * DAY..];
    let mut group = c.benchmark_group("heavy");
    group.sample_size(10);
    for (name, values, day, ahead) in
        [("14 days of 5 minutes", &values, DAY, DAY), ("14 days of hours, as fitted", &hourly, 24, 30)]
    {
        group.bench_function(format!("augurs MSTL + AutoETS/{name}"), |b| {
            b.iter(|| {
                let trend = AutoETS::non_seasonal().into_trend_model();
                MSTLModel::new(vec![day, 7 * day], trend).fit(values).unwrap().predict(ahead, 0.8).unwrap()
            });
        });
        group.bench_function(format!("augurs MSTL alone/{name}"), |b| {
            b.iter(|| MSTLModel::naive(vec![day, 7 * day]).fit(values).unwrap().predict(ahead, None).unwrap());
        });
    }
    for (name, values) in [("2016 points", week), ("288 points", &week[..DAY])] {
        for (forms, spec) in [("all forms", "ZZN"), ("the form of the last search", "AAN")] {
            group.bench_function(format!("augurs AutoETS/{name}/{forms}"), |b| {
                let model = AutoETS::new(1, spec).unwrap();
                let model = if spec == "AAN" { model.damped(false).unwrap() } else { model };
                b.iter(|| model.fit(values).unwrap().predict(DAY, 0.8).unwrap());
            });
        }
    }
    // A step at whose bucket a fit is due, beside one without (see `step/24h`).
    let model = Model { close_after_ms: 0, ..Model::default() };
    let points = wandering(DAYS * DAY + 100);
    let horizon_ms = 24 * 12 * STEP_MS;
    let due = (DAYS * DAY..).find(|i| (points[*i].0 / STEP_MS) % 72 == 0).unwrap();
    let threshold = points[due].1 + 10.0;
    let known = learn(State::new(horizon_ms, &model), &points[..due], horizon_ms, points[due - 1].0, &model);
    let next = &points[due..=due];
    let fitted = step(known.clone(), next, threshold, horizon_ms, next[0].0, &model).0;
    assert_eq!(fitted.fits_made(), 1, "the step to measure has a fit in it");
    group.bench_function("a step with a fit/24h", |b| {
        b.iter_batched(
            || known.clone(),
            |state| step(state, next, threshold, horizon_ms, next[0].0, &model),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, steps, heavy);
criterion_main!(benches);
