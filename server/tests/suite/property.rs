//! Properties of the forecast that hold for any series: input nobody should send is refused or
//! answered sanely, one history gives one answer however it arrives, and a backtest is causal.

use std::sync::atomic::AtomicBool;

use forewarn_server::forecast::{Model, State, assess, step};
use forewarn_server::model::forecast::{Forecast, Reason, State as Answer};
use forewarn_server::replay::file::Task;
use forewarn_server::replay::replay;
use proptest::prelude::*;

use crate::stories::{self, DAY, Dice, START_MS, STEP_MS};

const HOUR_MS: i64 = 3_600_000;

fn model() -> Model {
    Model { close_after_ms: 0, band_points: 8, ..Model::default() }
}

fn ask(points: &[(i64, f64)], threshold: f64, horizon_ms: i64) -> Forecast {
    let now_ms = points.iter().map(|p| p.0).max().unwrap_or(START_MS);
    let said = assess(points, threshold, horizon_ms, now_ms, &model()).1;
    assert_sane(&said);
    said
}

/// What every answer holds, whatever was asked.
fn assert_sane(said: &Forecast) {
    assert!((0.0..=1.0).contains(&said.probability), "{said:?}");
    match said.state {
        Answer::Warning { probability, earliest_ms, likely_ms, latest_ms } => {
            assert!(said.warned && probability == said.probability, "{said:?}");
            assert!(said.at_ms < earliest_ms && earliest_ms <= likely_ms && likely_ms <= latest_ms, "{said:?}");
        }
        Answer::NoForecast { .. } => {
            assert!(said.probability == 0.0 && said.likely_ms.is_none() && said.band.is_empty(), "{said:?}");
        }
        Answer::Stable => assert!(!said.warned, "{said:?}"),
        Answer::Breached => {}
    }
    for point in &said.band {
        assert!(point.low <= point.mid && point.mid <= point.high && point.high.is_finite(), "{point:?}");
    }
}

fn mixed(seed: u64, buckets: usize) -> Vec<f64> {
    let whole = match seed % 4 {
        0 => stories::steady_fill(seed, 10),
        1 => stories::log_rotation(seed, 10),
        2 => stories::leak_under_collection(seed, 10),
        _ => stories::growing_weeks(seed, 10),
    };
    whole[..buckets.min(whole.len())].to_vec()
}

#[test]
fn series_that_say_nothing_are_refused_or_stable_never_alarming() {
    let one = [(START_MS, 42.0)];
    assert!(matches!(ask(&one, 90.0, HOUR_MS).state, Answer::NoForecast { reason: Reason::TooShort { .. } }));
    for level in [0.0, 42.0, -7.0, 89.999] {
        let said = ask(&stories::points(&vec![level; 2 * DAY]), 90.0, 4 * HOUR_MS);
        assert_eq!(said.state, Answer::Stable, "constant {level}");
        assert!(said.probability < 0.05, "constant {level}: {}", said.probability);
    }
    let nothing = stories::points(&vec![f64::NAN; DAY]);
    let said = ask(&nothing, 90.0, HOUR_MS);
    assert!(matches!(said.state, Answer::NoForecast { .. }), "{:?}", said.state);
    let endless = stories::points(&[f64::INFINITY, f64::NEG_INFINITY].repeat(DAY));
    assert!(matches!(ask(&endless, 90.0, HOUR_MS).state, Answer::NoForecast { .. }));
}

#[test]
fn values_that_cannot_be_shares_are_judged_as_they_stand() {
    let wild: Vec<f64> = (0..2 * DAY).map(|i| if i % 2 == 0 { -40.0 } else { 140.0 }).collect();
    ask(&stories::points(&wild), 90.0, HOUR_MS);
    let below: Vec<f64> = (0..2 * DAY).map(|i| -1000.0 + i as f64 / 100.0).collect();
    assert_eq!(ask(&stories::points(&below), 90.0, HOUR_MS).state, Answer::Stable);
    assert_eq!(ask(&stories::points(&below), -2000.0, HOUR_MS).state, Answer::Breached, "below everything");
}

#[test]
fn horizon_longer_than_the_history_is_too_short_or_too_long() {
    let day = stories::points(&stories::steady_fill(1, 1));
    let months = ask(&day, 90.0, 90 * 24 * HOUR_MS);
    assert!(matches!(months.state, Answer::NoForecast { reason: Reason::HorizonTooLong { .. } }), "{months:?}");
    let week = ask(&day[..30], 90.0, 7 * 24 * HOUR_MS);
    assert!(matches!(week.state, Answer::NoForecast { reason: Reason::TooShort { .. } }), "{week:?}");
}

#[test]
fn nine_tenths_of_gaps_are_said_to_be_gaps() {
    let mut dice = Dice::new(3);
    let points: Vec<_> = stories::points(&mixed(0, 2000)).into_iter().filter(|_| dice.unit() < 0.1).collect();
    let said = ask(&points, 500.0, 4 * HOUR_MS);
    assert!(
        matches!(said.state, Answer::NoForecast { reason: Reason::TooManyGaps { .. } | Reason::Stale { .. } }),
        "{:?}",
        said.state
    );
}

#[test]
fn clock_that_jumps_ahead_and_back_does_not_warn_or_panic() {
    let calm: Vec<f64> = (0..2 * DAY).map(|i| 40.0 + (i % 7) as f64 * 0.1).collect();
    for jump_ms in [10 * 60_000, 26 * HOUR_MS, 400 * 24 * HOUR_MS] {
        for ahead in [true, false] {
            let mut state = State::new(4 * HOUR_MS, &model());
            for (i, (t_ms, value)) in stories::points(&calm).into_iter().enumerate() {
                // For twenty buckets in the middle the clock is elsewhere.
                let shift = if (300..320).contains(&i) { if ahead { jump_ms } else { -jump_ms } } else { 0 };
                let now_ms = t_ms + shift;
                let (next, said) = step(state, &[(now_ms, value)], 90.0, 4 * HOUR_MS, now_ms, &model());
                state = next;
                assert_sane(&said);
                assert!(!said.warned, "bucket {i}, jump {shift} ms: {:?}", said.state);
            }
        }
    }
}

#[test]
fn a_million_points_take_seconds_and_say_what_their_grid_says() {
    let second = |i: i64| 20.0 + 60.0 * i as f64 / 1_000_000.0;
    let points: Vec<_> = (0..1_000_000_i64).map(|i| (START_MS + i * 1000, second(i))).collect();
    let said = ask(&points, 80.0, 4 * HOUR_MS);
    let grid: Vec<_> = points
        .chunks(300)
        .map(|chunk| (chunk[chunk.len() - 1].0, chunk.iter().map(|p| p.1).sum::<f64>() / chunk.len() as f64))
        .collect();
    let coarse = ask(&grid, 80.0, 4 * HOUR_MS);
    assert!(matches!(said.state, Answer::Warning { .. } | Answer::Stable), "{:?}", said.state);
    assert!((said.probability - coarse.probability).abs() < 0.1, "{} {}", said.probability, coarse.probability);
}

fn task(threshold: f64, hours: i64) -> Task {
    let text = serde_json::json!({
        "id": "t", "file": "", "threshold": threshold, "horizon_s": hours * 3600, "eval_start": START_MS / 1000,
    });
    serde_json::from_value(text).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn order_and_repetition_of_samples_do_not_matter(seed in any::<u64>()) {
        let points = stories::points(&mixed(seed, 500));
        let mut shuffled = points.clone();
        let mut dice = Dice::new(seed);
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, (dice.unit() * (i + 1) as f64) as usize);
        }
        let repeated: Vec<_> = shuffled.iter().flat_map(|p| [*p, *p]).collect();
        let plain = ask(&points, 80.0, 4 * HOUR_MS);
        prop_assert_eq!(&ask(&shuffled, 80.0, 4 * HOUR_MS), &plain);
        let said = ask(&repeated, 80.0, 4 * HOUR_MS);
        prop_assert!((said.probability - plain.probability).abs() < 1e-6);
    }

    #[test]
    fn backtest_is_causal_and_repeatable(seed in any::<u64>(), cut in 60_usize..480, hours in 1_i64..8) {
        let points = stories::points(&mixed(seed, 500));
        let (task, go_on) = (task(75.0, hours), AtomicBool::new(false));
        let whole = replay(&points, &task, &model(), &go_on).unwrap();
        prop_assert_eq!(&replay(&points, &task, &model(), &go_on).unwrap(), &whole);
        let part = replay(&points[..cut], &task, &model(), &go_on).unwrap();
        prop_assert!(whole.starts_with(&part), "cut at {}", cut);
        let rest = &whole[part.len()..];
        let first = rest.split(',').nth(1).map_or(i64::MAX, |t| t.parse().unwrap());
        prop_assert!(first.saturating_mul(1000) > points[cut - 1].0, "a row before the cut is missing from the part");
    }

    #[test]
    fn shift_by_whole_days_changes_nothing(seed in any::<u64>(), days in -300_i64..300) {
        let points = stories::points(&mixed(seed, 600));
        let moved: Vec<_> = points.iter().map(|p| (p.0 + days * DAY as i64 * STEP_MS, p.1)).collect();
        let (a, b) = (ask(&points, 80.0, 2 * HOUR_MS), ask(&moved, 80.0, 2 * HOUR_MS));
        prop_assert!((a.probability - b.probability).abs() < 1e-6, "{} {}", a.probability, b.probability);
    }

    #[test]
    fn higher_threshold_is_never_more_probable_on_any_story(seed in any::<u64>(), low in 30.0..80.0_f64, more in 0.0..40.0_f64, hours in 1_i64..30) {
        let points = stories::points(&mixed(seed, 700));
        let p = |threshold| ask(&points, threshold, hours * HOUR_MS).probability;
        let (below, above) = (p(low), p(low + more));
        prop_assert!(above <= below + 1e-9, "{} at {}, {} at {}", below, low, above, low + more);
    }
}
