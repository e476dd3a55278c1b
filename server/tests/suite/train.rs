//! Training: it chooses on what came before, reports on what came after, and refuses what a history
//! cannot support.

use std::cell::Cell;

use forewarn_server::forecast::score::{Question, crossings};
use forewarn_server::forecast::train::{Refusal, TrainedModel, train};
use forewarn_server::forecast::{Model, ModelError};

use crate::stories::{self, Dice, STEP_MS};

const HOUR_MS: i64 = 3_600_000;

/// Bursts of work at odd hours: each climbs within the hour, some of them over 80.
fn bursts(seed: u64, buckets: usize) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let (mut next, mut height, mut from) = (20.0, 0.0, 0.0);
    (0..buckets)
        .map(|i| {
            let t = i as f64;
            if t >= next {
                from = next;
                height = if dice.unit() < 0.75 { dice.between(50.0, 65.0) } else { dice.between(15.0, 38.0) };
                next = t + dice.between(50.0, 80.0);
            }
            let age = t - from;
            let rise = if age < 14.0 { age / 14.0 } else { (1.0 - (age - 20.0) / 8.0).clamp(0.0, 1.0) };
            30.0 + height * rise + 1.5 * dice.normal()
        })
        .collect()
}

fn history(seed: u64, buckets: usize) -> Vec<(i64, f64)> {
    stories::points(&bursts(seed, buckets))
}

fn go_on(_: f64) -> bool {
    true
}

#[test]
fn history_that_supports_nothing_is_refused_with_its_reason() {
    let base = Model::default();
    let ask = |histories: &[Vec<(i64, f64)>], threshold| train(histories, threshold, HOUR_MS, &base, &go_on);
    assert_eq!(ask(&[], 80.0), Err(Refusal::BadQuestion));
    assert_eq!(ask(&[history(1, 400)], f64::NAN), Err(Refusal::BadQuestion));
    assert!(matches!(ask(&[history(1, 100)], 80.0), Err(Refusal::TooShort { have_ms, need_ms }) if have_ms < need_ms));
    assert!(matches!(ask(&[Vec::new()], 80.0), Err(Refusal::TooShort { have_ms: 0, .. })));
    let calm = vec![stories::points(&[50.0; 600])];
    assert_eq!(ask(&calm, 80.0), Err(Refusal::TooFewCrossings { chosen_on: 0, reported_on: 0 }));
    let broken: Vec<_> = history(1, 600).into_iter().map(|(t_ms, _)| (t_ms, f64::NAN)).collect();
    assert!(matches!(ask(&[broken], 80.0), Err(Refusal::TooFewCrossings { .. })));
    let bad = Model { on_probability: 7.0, ..Model::default() };
    let said = bad.check().unwrap_err();
    assert_eq!(said, ModelError::Range("on_probability"));
    let refused = train(&[history(1, 400)], 80.0, HOUR_MS, &bad, &go_on);
    assert_eq!(refused, Err(Refusal::BadSettings { said: said.to_string() }));
}

#[test]
fn cancelled_training_stops_at_the_next_look() {
    let looks = Cell::new(0);
    let stop_later = |_: f64| {
        looks.set(looks.get() + 1);
        looks.get() < 3
    };
    let said = train(&[history(1, 900)], 80.0, HOUR_MS, &Model::default(), &stop_later);
    assert_eq!((said, looks.get()), (Err(Refusal::Cancelled), 3));
}

fn trained(histories: &[Vec<(i64, f64)>]) -> Option<TrainedModel> {
    let done = Cell::new(0.0);
    let progress = |share: f64| {
        assert!((0.0..=1.0).contains(&share) && share >= done.get(), "{share} after {}", done.get());
        done.set(share);
        true
    };
    match train(histories, 80.0, HOUR_MS, &Model::default(), &progress) {
        Ok(model) => Some(model),
        Err(Refusal::NoBetter { default_report, best_report }) => {
            assert!(default_report.crossings >= 2 && best_report.crossings == default_report.crossings);
            None
        }
        Err(other) => panic!("refused: {other}"),
    }
}

#[test]
fn trained_model_is_chosen_before_and_reported_after_its_split() {
    let mut found = 0;
    for seed in 0..3 {
        let histories = [history(seed, 1000)];
        let Some(model) = trained(&histories) else { continue };
        found += 1;
        model.settings.check().unwrap();
        assert!(!model.variants.is_empty() && model.settings != Model::default());
        let (from, to) = (histories[0][0].0, histories[0].last().unwrap().0);
        assert_eq!((model.from_ms, model.to_ms, model.series), (from, to, 1));
        // Counted here once more, and only after the split.
        let q = Question::new(80.0, HOUR_MS, STEP_MS, model.split_ms);
        let q_crossings = crossings(&histories[0], &q).len();
        assert_eq!(model.report.crossings, q_crossings);
        assert!(model.report.warned <= model.report.crossings);
        assert!(model.report.f05 - model.report.brier > model.default_report.f05 - model.default_report.brier);
        assert!(model.calibration.iter().all(|c| c.came_true_ratio.is_none_or(|r| (0.0..=1.0).contains(&r))));
        assert!(model.time_error.iter().all(|e| e.factor.is_none_or(|f| f >= 1.0)));
        let kept: TrainedModel = serde_json::from_str(&serde_json::to_string(&model).unwrap()).unwrap();
        assert_eq!(
            (kept.settings, kept.variants, kept.report.crossings),
            (model.settings, model.variants, q_crossings)
        );
    }
    assert!(found > 0, "no seed has a model that is better than the default: nothing was tested");
}

#[test]
fn what_comes_after_the_split_has_no_say_in_the_choice() {
    let mut compared = 0;
    for seed in 0..3 {
        let one = history(seed, 1000);
        let split = 1000 * 6 / 10;
        // The same first part, another last part.
        let other: Vec<_> = one[..split].iter().copied().chain(history(seed + 100, 1000)[split..].to_vec()).collect();
        if let (Some(a), Some(b)) = (trained(&[one]), trained(&[other])) {
            compared += 1;
            assert_eq!((a.variants, a.settings), (b.variants, b.settings), "seed {seed}");
        }
    }
    assert!(compared > 0, "no seed was comparable: nothing was tested");
}
