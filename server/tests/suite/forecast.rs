//! What the forecast promises, on series made for the purpose: silent where nothing comes, early
//! where something does, never a panic, never a look ahead.

use forewarn_server::forecast::{Model, State, assess, learn, step};
use forewarn_server::model::forecast::{Because, Forecast, Reason, State as Answer};
use proptest::prelude::*;

use crate::stories::{self, DAY, START_MS, STEP_MS};

const HOUR_MS: i64 = 3_600_000;

fn model() -> Model {
    Model { close_after_ms: 0, band_points: 0, ..Model::default() }
}

/// All answers of a replay, one a bucket.
fn replay(values: &[f64], threshold: f64, horizon_ms: i64, model: &Model) -> Vec<Forecast> {
    let mut state = State::new(horizon_ms, model);
    let mut said = Vec::new();
    for point in stories::points(values) {
        let (next, answer) = step(state, &[point], threshold, horizon_ms, point.0, model);
        state = next;
        said.push(answer);
    }
    said
}

fn random_series(seed: u64, buckets: usize) -> Vec<f64> {
    let mut dice = stories::Dice::new(seed);
    let (level, noise) = (dice.between(5.0, 60.0), dice.between(0.01, 4.0));
    let (slope, wave) = (dice.between(-0.05, 0.1), dice.between(0.0, 15.0));
    let (tooth, period) = (dice.between(0.0, 20.0), dice.between(5.0, 90.0));
    let step_at = dice.between(0.0, 1.5) * buckets as f64;
    let rise = dice.between(-20.0, 20.0);
    (0..buckets)
        .map(|i| {
            let t = i as f64;
            level
                + slope * t
                + wave * (t / DAY as f64 * std::f64::consts::TAU).sin()
                + tooth * (t / period).fract()
                + if t > step_at { rise } else { 0.0 }
                + noise * dice.normal()
        })
        .collect()
}

#[test]
fn log_rotation_that_never_crosses_stays_silent() {
    for seed in 0..12 {
        let values = stories::log_rotation(seed, 12);
        assert!(values.iter().all(|v| *v < 90.0), "seed {seed} is no silent story");
        let said = replay(&values, 90.0, 24 * HOUR_MS, &model());
        // A first tooth cannot be told from a fill: the promise holds once two rotations were seen.
        let known = values.windows(2).enumerate().filter(|(_, w)| w[1] < w[0] - 5.0).nth(1).map_or(0, |(i, _)| i + 3);
        let late = said[known..].iter().position(|f| f.warned);
        assert_eq!(late, None, "seed {seed}: warned after bucket {known}");
    }
}

#[test]
fn nightly_copy_that_has_stopped_growing_is_no_fill() {
    for seed in 0..6 {
        let mut dice = stories::Dice::new(seed);
        let copy = dice.between(10.0, 15.0);
        let night: Vec<f64> = (0..3 * DAY)
            .map(|i| {
                let hour = (i % DAY) as f64 / 12.0;
                let written = if hour < 6.0 { ((hour - 1.0) / 3.0).clamp(0.0, 1.0) } else { 0.0 };
                46.0 + copy * written + 0.05 * dice.normal()
            })
            .collect();
        let said = replay(&night, 90.0, 24 * HOUR_MS, &model());
        // Until the first one is gone nothing tells it from a fill.
        let after_first = 7 * DAY / 24;
        let late = said[after_first..].iter().position(|f| f.warned);
        assert_eq!(late, None, "seed {seed}: warned so many buckets after the first copy");
    }
}

#[test]
fn steady_fill_is_foreseen_hours_ahead() {
    for seed in 0..6 {
        let values = stories::steady_fill(seed, 10);
        let crossing = values.iter().position(|v| *v >= 90.0).unwrap();
        let said = replay(&values, 90.0, 24 * HOUR_MS, &model());
        let first = said.iter().position(|f| f.warned).unwrap();
        let lead_buckets = crossing.saturating_sub(first);
        assert!((48..=400).contains(&lead_buckets), "seed {seed}: lead {lead_buckets} buckets");
        assert!(said[first..crossing].iter().all(|f| f.warned), "seed {seed}: the warning flaps");
    }
}

#[test]
fn a_fill_that_is_new_to_a_calm_disk_is_timed_by_its_own_pace() {
    for (seed, pace) in [(1, 0.6), (2, 1.5), (3, 3.0)] {
        let mut dice = stories::Dice::new(seed);
        let flat = 5 * DAY;
        let level = |i: usize| 35.0 + pace / 12.0 * i.saturating_sub(flat) as f64;
        let values: Vec<f64> =
            (0..).map(level).take_while(|level| *level < 90.0).map(|level| level + 0.1 * dice.normal()).collect();
        let said = replay(&values, 90.0, 24 * HOUR_MS, &model());
        let first = said.iter().position(|f| f.warned).unwrap();
        // What has just begun may end as soon: a quarter of the way is given to it.
        let from = first.max(flat + (values.len() - flat) / 4);
        // In the last hour the noise is more than what is left.
        for (left, forecast) in (12..values.len() - from).rev().zip(&said[from..]) {
            let Answer::Warning { earliest_ms, likely_ms, latest_ms, .. } = forecast.state else {
                panic!("{pace} an hour, {left} buckets before: {:?}", forecast.state)
            };
            let ahead = |at_ms: i64| (at_ms - forecast.at_ms) as f64 / STEP_MS as f64;
            let (early, likely, late) = (ahead(earliest_ms), ahead(likely_ms), ahead(latest_ms));
            let left = left as f64;
            assert!((likely - left).abs() <= 0.3 * left + 6.0, "{pace} an hour: {likely} buckets, {left} are left");
            assert!(early <= left && left <= late, "{pace} an hour: {early} to {late} buckets, {left} are left");
            assert!(early >= 0.3 * left, "{pace} an hour: {early} is no time, {left} are left");
        }
    }
}

#[test]
fn breach_does_not_clear_a_warning() {
    let values = stories::steady_fill(1, 10);
    let said = replay(&values, 90.0, 24 * HOUR_MS, &model());
    let over = said.iter().position(|f| f.state == Answer::Breached).unwrap();
    assert!(said[over - 1].warned && said[over].warned);
    assert!(said[over..].iter().all(|f| f.warned && f.state != Answer::Stable));
}

#[test]
fn ten_minutes_of_data_are_refused() {
    let said = replay(&[50.0, 80.0, 89.0], 90.0, 4 * HOUR_MS, &model());
    for answer in said {
        let Answer::NoForecast { reason: Reason::TooShort { have_ms, need_ms } } = answer.state else {
            panic!("said {:?}", answer.state);
        };
        assert!(have_ms < need_ms);
        assert!(!answer.warned && answer.probability == 0.0);
    }
}

#[test]
fn silence_is_said_to_be_stale() {
    let points = stories::points(&[50.0; 100]);
    let end = points.last().unwrap().0;
    let at = |now| assess(&points, 90.0, HOUR_MS, now, &model()).1.state;
    assert_eq!(at(end), Answer::Stable);
    let later = at(end + 2 * HOUR_MS);
    assert!(matches!(later, Answer::NoForecast { reason: Reason::Stale { .. } }), "said {later:?}");
}

#[test]
fn nine_in_ten_missing_is_refused() {
    let mut dice = stories::Dice::new(7);
    let points: Vec<_> = stories::points(&random_series(7, 2000)).into_iter().filter(|_| dice.unit() < 0.1).collect();
    let end = points.last().unwrap().0;
    let (_, said) = assess(&points, 500.0, 4 * HOUR_MS, end, &model());
    assert!(matches!(said.state, Answer::NoForecast { reason: Reason::TooManyGaps { .. } }), "said {:?}", said.state);
}

#[test]
fn slow_rhythm_is_not_taken_for_gaps() {
    let points: Vec<_> = stories::points(&random_series(3, 2000)).into_iter().step_by(6).collect();
    let end = points.last().unwrap().0;
    let (_, said) = assess(&points, 500.0, 4 * HOUR_MS, end, &model());
    assert_eq!(said.state, Answer::Stable);
}

#[test]
fn bad_questions_and_bad_points_are_answered_not_panicked() {
    let m = model();
    let day = stories::points(&random_series(1, DAY));
    let end = day.last().unwrap().0;
    let ask = |points: &[(i64, f64)], threshold, horizon_ms, now| assess(points, threshold, horizon_ms, now, &m).1;
    let bad = Answer::NoForecast { reason: Reason::BadQuestion };
    assert_eq!(ask(&day, f64::NAN, HOUR_MS, end).state, bad);
    assert_eq!(ask(&day, f64::INFINITY, HOUR_MS, end).state, bad);
    assert_eq!(ask(&day, 90.0, 0, end).state, bad);
    assert_eq!(ask(&day, 90.0, -5, end).state, bad);
    assert!(matches!(
        ask(&day, 90.0, i64::MAX, end).state,
        Answer::NoForecast { reason: Reason::HorizonTooLong { .. } }
    ));
    assert!(matches!(ask(&[], 90.0, HOUR_MS, end).state, Answer::NoForecast { .. }));
    assert!(matches!(ask(&day[..1], 90.0, HOUR_MS, end).state, Answer::NoForecast { .. }));
    assert_eq!(ask(&day, -1e9, HOUR_MS, end).state, Answer::Breached);
    let flat: Vec<_> = day.iter().map(|p| (p.0, 0.0)).collect();
    assert_eq!(ask(&flat, 90.0, HOUR_MS, end).state, Answer::Stable);
    assert_eq!(ask(&flat, 0.0, HOUR_MS, end).state, Answer::Breached);
    let mut dirty = day.clone();
    for (i, p) in dirty.iter_mut().enumerate() {
        match i % 9 {
            0 => p.1 = f64::NAN,
            1 => p.1 = f64::NEG_INFINITY,
            2 => p.0 -= 40 * STEP_MS,
            3 => p.0 = i64::MIN,
            4 => p.0 = i64::MAX,
            5 => p.1 = 1e300,
            _ => {}
        }
    }
    dirty.extend(day.iter().rev());
    let said = ask(&dirty, 90.0, HOUR_MS, end);
    assert!((0.0..=1.0).contains(&said.probability), "said {said:?}");
}

#[test]
fn million_points_are_judged() {
    let points: Vec<_> = (0..1_000_000_i64).map(|i| (START_MS + i * 1000, (i % 60) as f64)).collect();
    let end = points.last().unwrap().0;
    let (state, said) = assess(&points, 90.0, HOUR_MS, end, &model());
    assert_eq!(said.state, Answer::Stable);
    assert_eq!(state.left_out(), 0);
}

#[test]
fn carried_state_says_what_a_rebuilt_one_says() {
    // Longer than the window, so that the cut has happened several times.
    let m = Model { window_buckets: 1500, ..model() };
    let points = stories::points(&random_series(11, 4000));
    let mut carried = State::new(4 * HOUR_MS, &m);
    for (i, point) in points.iter().enumerate() {
        let (next, said) = step(carried, &[*point], 70.0, 4 * HOUR_MS, point.0, &m);
        carried = next;
        if i % 411 == 0 || i + 1 == points.len() {
            let before = points[..i].last().map_or(0, |p| p.0);
            let standing = said.warned;
            let rebuilt =
                learn(State::new(4 * HOUR_MS, &m), &points[..i], 4 * HOUR_MS, before, &m).with_warning(standing);
            let (judged, again) = step(rebuilt, &[*point], 70.0, 4 * HOUR_MS, point.0, &m);
            assert_eq!(judged.digest(), carried.digest(), "bucket {i}: judged on the same grid");
            assert_eq!(again.probability.to_bits(), said.probability.to_bits(), "bucket {i}");
            assert_eq!(again.likely_ms, said.likely_ms, "bucket {i}");
            assert_eq!(again.reasons, said.reasons, "bucket {i}");
        }
    }
}

/// The end-to-end test speeds time up by its settings: a grid of two seconds, samples every second.
#[test]
fn grid_of_seconds_warns_of_a_fill_and_not_of_a_sawtooth() {
    let m = Model { step_ms: 2_000, close_after_ms: 1_000, band_points: 0, ..Model::default() };
    let horizon_ms = 300_000;
    for seed in 0..8 {
        let mut dice = stories::Dice::new(seed);
        let (mut fill, rate) = (dice.between(5.0, 20.0), dice.between(0.12, 0.25));
        let (mut tooth, period) = (0.0, dice.between(14.0, 22.0));
        let (mut filling, mut rotating) = (State::new(horizon_ms, &m), State::new(horizon_ms, &m));
        let mut warned_at = None;
        let mut crossed_at = None;
        for second in 0..700_i64 {
            let now_ms = START_MS + second * 1_000;
            fill += rate * dice.between(0.5, 1.5);
            tooth = if tooth >= 50.0 { 0.0 } else { tooth + 50.0 / period * dice.between(0.8, 1.2) };
            let (next, said) = step(filling, &[(now_ms, fill)], 90.0, horizon_ms, now_ms, &m);
            filling = next;
            if matches!(said.state, Answer::Warning { .. }) && warned_at.is_none() {
                warned_at = Some(second);
            }
            if fill >= 90.0 {
                crossed_at = Some(second);
                break;
            }
            let (next, said) = step(rotating, &[(now_ms, 25.0 + tooth)], 90.0, horizon_ms, now_ms, &m);
            rotating = next;
            assert!(!said.warned, "seed {seed}: the sawtooth warns after {second} s");
        }
        let (warned_at, crossed_at) = (warned_at.unwrap(), crossed_at.unwrap());
        let lead = crossed_at - warned_at;
        assert!((60..=330).contains(&lead), "seed {seed}: lead {lead} s");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_in_order_and_in_range(seed in any::<u64>(), hours in 1_i64..24, threshold in 20.0..100.0_f64) {
        for said in replay(&random_series(seed, 900), threshold, hours * HOUR_MS, &model()) {
            prop_assert!((0.0..=1.0).contains(&said.probability));
            if let Answer::Warning { probability, earliest_ms, likely_ms, latest_ms } = said.state {
                prop_assert!(probability == said.probability);
                prop_assert!(said.at_ms < earliest_ms);
                prop_assert!(earliest_ms <= likely_ms && likely_ms <= latest_ms);
            }
        }
    }

    #[test]
    fn later_points_never_change_an_earlier_answer(seed in any::<u64>(), cut in 30_usize..800) {
        let values = random_series(seed, 800);
        let whole = replay(&values, 60.0, 4 * HOUR_MS, &model());
        let part = replay(&values[..cut], 60.0, 4 * HOUR_MS, &model());
        prop_assert_eq!(&whole[..cut], &part[..]);
    }

    #[test]
    fn higher_threshold_is_never_more_probable(seed in any::<u64>(), low in 20.0..80.0_f64, more in 0.0..40.0_f64) {
        let points = stories::points(&random_series(seed, 900));
        let end = points.last().map_or(0, |p| p.0);
        let p = |threshold| assess(&points, threshold, 2 * HOUR_MS, end, &model()).1.probability;
        prop_assert!(p(low + more) <= p(low) + 1e-9);
    }

    #[test]
    fn unit_of_the_values_does_not_matter(seed in any::<u64>(), exponent in -8_i32..30) {
        let values = random_series(seed, 700);
        let factor = 2.0_f64.powi(exponent);
        let scaled: Vec<f64> = values.iter().map(|v| v * factor).collect();
        let plain = replay(&values, 60.0, 4 * HOUR_MS, &model());
        let other = replay(&scaled, 60.0 * factor, 4 * HOUR_MS, &model());
        for (a, b) in plain.iter().zip(&other) {
            prop_assert!((a.probability - b.probability).abs() < 1e-3, "{} {}", a.probability, b.probability);
        }
    }

    #[test]
    fn garbage_is_survived(points in prop::collection::vec((any::<i64>(), any::<f64>()), 0..400), threshold in any::<f64>(), horizon_ms in any::<i64>(), now_ms in any::<i64>()) {
        let (_, said) = assess(&points, threshold, horizon_ms, now_ms, &model());
        prop_assert!((0.0..=1.0).contains(&said.probability));
    }

    #[test]
    fn dense_garbage_is_survived(values in prop::collection::vec(any::<f64>(), 0..400), threshold in any::<f64>()) {
        for said in replay(&values, threshold, 2 * HOUR_MS, &model()) {
            prop_assert!((0.0..=1.0).contains(&said.probability));
        }
    }
}

/// An even fill from 40, which from bucket `turn` on goes ten times as fast; the first bucket has a number that
/// divides by that of a day.
fn fill_that_turns(turn: usize, buckets: usize) -> Vec<(i64, f64)> {
    let mut dice = stories::Dice::new(5);
    let day_ms = DAY as i64 * STEP_MS;
    let begin_ms = START_MS.div_euclid(day_ms) * day_ms;
    let value = |i: usize| 40.0 + 0.02 * i as f64 + 0.18 * i.saturating_sub(turn) as f64 + dice.between(-0.05, 0.05);
    (0..buckets).map(value).enumerate().map(|(i, v)| (begin_ms + i as i64 * STEP_MS, v)).collect()
}

#[test]
fn heavy_fit_that_promised_what_did_not_come_is_made_again_before_its_turn() {
    // Six buckets after the turn of a fit; a quarter of the horizon of a day is 72 buckets.
    let turn = 72 * 24 + 6;
    let points = fill_that_turns(turn, turn + 60);
    let horizon_ms = 24 * HOUR_MS;
    let mut state = State::new(horizon_ms, &model());
    let mut fits = Vec::new();
    for (i, point) in points.iter().enumerate() {
        state = step(state.with_fits_left(usize::MAX), &[*point], 90.0, horizon_ms, point.0, &model()).0;
        fits.extend(std::iter::repeat_n(i, state.fits_made()));
    }
    let early: Vec<usize> = fits.iter().copied().filter(|i| i % 72 != 0 && *i > fits[0]).collect();
    assert_eq!(early.len(), 1, "fits at {fits:?}");
    assert!((turn + 1..=turn + 36).contains(&early[0]), "the fill turned at {turn}, fits at {fits:?}");
}

#[test]
fn heavy_fit_that_has_to_wait_leaves_the_older_one_and_says_so() {
    let points = fill_that_turns(usize::MAX, 72 * 25 + 3);
    let horizon_ms = 24 * HOUR_MS;
    let (before, at_turn) = points.split_at(72 * 25);
    let (past, last) = before.split_at(before.len() - 1);
    let known = learn(State::new(horizon_ms, &model()), past, horizon_ms, past.last().unwrap().0, &model());
    let ask = |state: State, point: (i64, f64)| step(state, &[point], 90.0, horizon_ms, point.0, &model());
    let (known, _) = ask(known, last[0]);
    let age = |said: &Forecast| {
        said.reasons.iter().find_map(|because| match because {
            Because::Decomposition { age_ms, .. } => Some(*age_ms),
            _ => None,
        })
    };
    let waits = |said: &Forecast| said.reasons.contains(&Because::DecompositionWaits);

    let (in_time, said) = ask(known.clone().with_fits_left(1), at_turn[0]);
    assert_eq!((in_time.fits_made(), age(&said), waits(&said)), (1, Some(0), false));
    let (late, said) = ask(known.with_fits_left(0), at_turn[0]);
    assert_eq!((late.fits_made(), age(&said), waits(&said)), (0, Some(72 * STEP_MS), true));

    let (_, in_time) = ask(in_time, at_turn[1]);
    let (late, said) = ask(late.with_fits_left(1), at_turn[1]);
    assert_eq!(late.fits_made(), 1);
    assert_eq!(said, in_time, "once it was fitted nothing of the wait is left");
    let without = State::new(horizon_ms, &model()).with_fits_left(0);
    let (_, said) = step(without, before, 90.0, horizon_ms, last[0].0, &model());
    assert_eq!((age(&said), waits(&said)), (None, true), "no fit yet, and none is made up");
}
