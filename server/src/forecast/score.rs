//! What decisions were worth, told afterwards: which crossings were warned of in time, which
//! warnings came to nothing, how far ahead, how well the times and probabilities were said.
//! The definition is the benchmark's (`warnbench`, scorer): training and the benchmark use this
//! one. Plain arithmetic over a finished series; nothing here forecasts, reads files or prints.

/// Distance of the moments at which decisions are counted.
pub const TICK_MS: i64 = 300_000;
/// Buckets at or over the threshold that make an incident; fewer are a blip.
const RUN_BUCKETS_MIN: usize = 3;
/// Missing buckets that take the last value.
const CARRIED_BUCKETS: usize = 3;
/// A warning is true if the crossing comes within this many horizons of its start.
const PIECE_HORIZONS: f64 = 1.25;
/// A task with more crossings than this weighs as this many, so that one noisy series does not rule.
const EVENTS_WEIGHED_MAX: f64 = 10.0;
/// A longer series than this many buckets is not scored: fifty years of five minutes.
const BUCKETS_MAX: i64 = 5_300_000;
/// A predicted time less than this ahead counts as this far.
const AHEAD_MS_MIN: i64 = 60_000;
const WEEK_MS: f64 = 604_800_000.0;

/// What a series was judged against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// Usual distance of samples.
    pub interval_ms: i64,
    /// The level that must not be reached.
    pub threshold: f64,
    /// How far ahead was looked.
    pub horizon_ms: i64,
    /// A warning later than this before the crossing is worth nothing.
    pub min_lead_ms: i64,
    /// Incidents nearer to each other than this are one.
    pub recovery_ms: i64,
    /// A warning may pause this long before the crossing.
    pub end_slack_ms: i64,
    /// What lies before is history only.
    pub judged_from_ms: i64,
}

impl Question {
    /// The question with the usual tolerances of a horizon.
    #[must_use]
    pub fn new(threshold: f64, horizon_ms: i64, interval_ms: i64, judged_from_ms: i64) -> Self {
        let tenth_ms = horizon_ms / 10;
        Self {
            interval_ms,
            threshold,
            horizon_ms,
            min_lead_ms: tenth_ms,
            recovery_ms: (horizon_ms / 4).max(30 * 60_000),
            end_slack_ms: tenth_ms.max(10 * 60_000),
            judged_from_ms,
        }
    }
}

/// What was said at one tick. A tick without a decision said nothing, with probability 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// The tick.
    pub at_ms: i64,
    /// Whether a warning stood.
    pub warned: bool,
    /// When the crossing was expected.
    pub likely_ms: Option<i64>,
    /// Probability of a crossing within the horizon, if one was said.
    pub probability: Option<f64>,
}

/// Warnings by the probability they were said with: counted, and come true.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Kept {
    /// Said.
    pub said: usize,
    /// Followed by a crossing within the horizon.
    pub true_said: usize,
}

impl Kept {
    /// Share that came true; `None` if none was said.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        (self.said > 0).then(|| self.true_said as f64 / self.said as f64)
    }

    fn count(&mut self, came: bool) {
        self.said += 1;
        self.true_said += usize::from(came);
    }

    fn add(&mut self, other: Self) {
        self.said += other.said;
        self.true_said += other.true_said;
    }
}

/// Lower ends of the probability classes of [`Score::moments`] and [`Score::starts`].
pub const CLASSES: [f64; 4] = [0.0, 0.60, 0.80, 0.95];

fn class(probability: f64) -> usize {
    CLASSES.iter().rposition(|from| probability >= *from).unwrap_or(0)
}

/// The worth of the decisions on one series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Crossings.
    pub events: usize,
    /// Crossings that were warned of in time.
    pub warned: usize,
    /// Crossings that some warning foresaw, in time or not.
    pub hit: usize,
    /// Warnings that a crossing followed.
    pub true_pieces: usize,
    /// Warnings that nothing followed.
    pub false_pieces: usize,
    /// Warnings that cannot be judged.
    pub neutral_pieces: usize,
    /// Time outside of incidents.
    pub free_ms: i64,
    /// For each crossing warned of: how long before, as a share of the horizon.
    pub leads: Vec<f64>,
    /// For each crossing warned of: |ln| of predicted over true time, the median over its moments.
    pub time_errors: Vec<f64>,
    /// At each moment of such a warning: how far ahead the crossing was, as a share of the horizon,
    /// and |ln| of predicted over true time.
    pub moment_errors: Vec<(f64, f64)>,
    /// Sum of squared errors of the probability.
    pub brier_sum: f64,
    /// Moments in it.
    pub brier_count: usize,
    /// Moments at which a warning stood, by class of probability.
    pub moments: [Kept; 4],
    /// Moments at which a warning started, by class of probability.
    pub starts: [Kept; 4],
}

struct Incidents {
    /// Times of the crossings that count.
    events: Vec<i64>,
    /// Spans in which decisions do not count.
    busy: Vec<(i64, i64)>,
    /// Begins of single buckets over the threshold.
    blips: Vec<i64>,
    bucket_ms: i64,
}

/// Half-open runs of true.
fn runs(flags: &[bool]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut begin = None;
    for (i, flag) in flags.iter().copied().chain([false]).enumerate() {
        match (flag, begin) {
            (true, None) => begin = Some(i),
            (false, Some(from)) => {
                found.push((from, i));
                begin = None;
            }
            _ => {}
        }
    }
    found
}

/// The times at which the series crosses its threshold and counts as an incident, oldest first.
#[must_use]
pub fn crossings(points: &[(i64, f64)], q: &Question) -> Vec<i64> {
    incidents(points, q).map(|found| found.events).unwrap_or_default()
}

fn incidents(points: &[(i64, f64)], q: &Question) -> Option<Incidents> {
    let bucket_ms = TICK_MS.max(q.interval_ms);
    let (first, last) = (points.first()?.0, points.last()?.0);
    let start = first.div_euclid(bucket_ms) * bucket_ms;
    let count = last.checked_sub(start)?.div_euclid(bucket_ms) + 1;
    if !(1..=BUCKETS_MAX).contains(&count) {
        return None;
    }
    let mut sums = vec![(0.0, 0_u32); count as usize];
    for (t_ms, value) in points {
        let slot = usize::try_from((t_ms - start).div_euclid(bucket_ms)).ok().and_then(|slot| sums.get_mut(slot));
        if let Some((sum, n)) = slot.filter(|_| value.is_finite()) {
            *sum += value;
            *n += 1;
        }
    }
    let (mut carried, mut age) = (f64::NAN, 0);
    let over: Vec<bool> = sums
        .iter()
        .map(|(sum, n)| {
            if *n > 0 {
                (carried, age) = (sum / f64::from(*n), 0);
            } else {
                age += 1;
            }
            age <= CARRIED_BUCKETS && carried >= q.threshold
        })
        .collect();
    let at = |bucket: usize| start + bucket as i64 * bucket_ms;
    let mut blips = Vec::new();
    let mut merged: Vec<(i64, i64)> = Vec::new();
    for (from, to) in runs(&over) {
        if to - from < RUN_BUCKETS_MIN {
            blips.extend((from..to).map(at));
            continue;
        }
        match merged.last_mut() {
            Some(before) if at(from) - before.1 < q.recovery_ms => before.1 = at(to),
            _ => merged.push((at(from), at(to))),
        }
    }
    let (mut events, mut busy) = (Vec::new(), Vec::new());
    for (from, to) in merged {
        busy.push((from, to + q.recovery_ms));
        if from - start < q.recovery_ms {
            // Over from the start: no crossing was seen.
            continue;
        }
        let bucket =
            &points[points.partition_point(|p| p.0 < from)..points.partition_point(|p| p.0 < from + bucket_ms)];
        let crossing = bucket.iter().find(|p| p.1 >= q.threshold).map_or(from, |p| p.0);
        if crossing >= q.judged_from_ms + q.min_lead_ms {
            events.push(crossing);
        }
    }
    Some(Incidents { events, busy, blips, bucket_ms })
}

/// The ticks at which the decisions on a series count; one at its very end has no outcome.
pub fn ticks(q: &Question, end_ms: i64) -> impl Iterator<Item = i64> + use<> {
    let first = -(-q.judged_from_ms).div_euclid(TICK_MS) * TICK_MS;
    (first..end_ms).step_by(TICK_MS as usize)
}

/// Scores decisions (ascending by time) on a finished series (ascending by time).
#[must_use]
pub fn score(points: &[(i64, f64)], q: &Question, decisions: &[Decision]) -> Score {
    let Some(found) = incidents(points, q) else { return Score::default() };
    let end_ms = points.last().map_or(0, |p| p.0);
    let ticks: Vec<i64> = ticks(q, end_ms).collect();
    let mut said: Vec<Option<&Decision>> = Vec::with_capacity(ticks.len());
    let mut rest = decisions;
    for tick in &ticks {
        rest = &rest[rest.partition_point(|d| d.at_ms < *tick)..];
        said.push(rest.first().filter(|d| d.at_ms == *tick));
    }
    let busy: Vec<bool> =
        ticks.iter().map(|tick| found.busy.iter().any(|(from, to)| from <= tick && tick < to)).collect();
    let mut warned: Vec<bool> = said.iter().map(|d| d.is_some_and(|d| d.warned)).collect();
    for i in 0..ticks.len() {
        // A tick whose own last bucket is over is no early warning: it carries the state before it.
        let over = found.blips.iter().any(|blip| (0..=found.bucket_ms).contains(&(ticks[i] - blip)));
        if over && !busy[i] {
            warned[i] = i > 0 && !busy[i - 1] && warned[i - 1];
        }
    }
    let mut score = Score { events: found.events.len(), ..Score::default() };
    score.free_ms = busy.iter().filter(|b| !**b).count() as i64 * TICK_MS;
    let free_warned: Vec<bool> = warned.iter().zip(&busy).map(|(w, b)| *w && !b).collect();
    count_pieces(&found, q, &ticks, &free_warned, end_ms, &mut score);
    count_leads(&found, q, &ticks, &warned, &said, &mut score);
    count_probabilities(&found, q, &ticks, &busy, &free_warned, &said, end_ms, &mut score);
    score
}

/// Warnings in pieces of at most a horizon and a quarter, so that "always on" pays for it.
fn count_pieces(found: &Incidents, q: &Question, ticks: &[i64], free_warned: &[bool], end_ms: i64, score: &mut Score) {
    let piece_ms = (PIECE_HORIZONS * q.horizon_ms as f64) as i64;
    let mut hit: Vec<i64> = Vec::new();
    for (from, to) in runs(free_warned) {
        let (mut start, stop) = (ticks[from], ticks[to - 1] + TICK_MS);
        while start < stop {
            let upto = start + piece_ms;
            if let Some(event) = found.events.iter().find(|event| start < **event && **event <= upto) {
                score.true_pieces += 1;
                hit.push(*event);
                break;
            }
            let excused = found.blips.iter().any(|blip| blip + TICK_MS > start && *blip <= upto)
                || upto > end_ms
                || found.busy.iter().any(|(from, to)| *from <= upto && *to > start);
            if excused {
                score.neutral_pieces += 1;
            } else {
                score.false_pieces += 1;
            }
            start = upto;
        }
    }
    hit.sort_unstable();
    hit.dedup();
    score.hit = hit.len();
}

fn count_leads(
    found: &Incidents,
    q: &Question,
    ticks: &[i64],
    warned: &[bool],
    said: &[Option<&Decision>],
    score: &mut Score,
) {
    for event in &found.events {
        let free_from = found.busy.iter().map(|b| b.1).filter(|end| end <= event).max();
        let free_from = free_from.unwrap_or(q.judged_from_ms).max(q.judged_from_ms);
        let on: Vec<usize> =
            (0..ticks.len()).filter(|i| warned[*i] && ticks[*i] < *event && ticks[*i] >= free_from).collect();
        let Some(newest) = on.last() else { continue };
        if event - (ticks[*newest] + TICK_MS) > q.end_slack_ms {
            continue;
        }
        let mut start = ticks[*newest];
        for i in on.iter().rev() {
            if start - ticks[*i] > q.end_slack_ms + TICK_MS {
                break;
            }
            start = ticks[*i];
        }
        if event - start < q.min_lead_ms {
            continue;
        }
        score.warned += 1;
        score.leads.push((event - start).min(q.horizon_ms) as f64 / q.horizon_ms as f64);
        let errors: Vec<(f64, f64)> = on
            .iter()
            .filter(|i| ticks[**i] >= start)
            .map(|i| (event - ticks[*i], said[*i].and_then(|d| d.likely_ms).map(|likely| likely - ticks[*i])))
            .filter(|(ahead, _)| *ahead >= q.min_lead_ms && *ahead as f64 <= PIECE_HORIZONS * q.horizon_ms as f64)
            .filter_map(|(ahead, likely)| {
                let error = (likely?.max(AHEAD_MS_MIN) as f64 / ahead as f64).ln().abs();
                Some((ahead as f64 / q.horizon_ms as f64, error))
            })
            .collect();
        score.time_errors.extend(median(&mut errors.iter().map(|e| e.1).collect::<Vec<_>>()));
        score.moment_errors.extend(errors);
    }
}

#[expect(clippy::too_many_arguments, reason = "the parallel columns of one table")]
fn count_probabilities(
    found: &Incidents,
    q: &Question,
    ticks: &[i64],
    busy: &[bool],
    free_warned: &[bool],
    said: &[Option<&Decision>],
    end_ms: i64,
    score: &mut Score,
) {
    if !said.iter().flatten().any(|d| d.probability.is_some()) {
        return;
    }
    for (i, tick) in ticks.iter().enumerate() {
        if busy[i] || tick + q.horizon_ms > end_ms {
            continue;
        }
        let came = found.events.iter().any(|event| tick < event && *event <= tick + q.horizon_ms);
        let probability = said[i].and_then(|d| d.probability).unwrap_or(0.0);
        score.brier_sum += (probability - f64::from(u8::from(came))).powi(2);
        score.brier_count += 1;
        if free_warned[i] {
            score.moments[class(probability)].count(came);
            // One that only went on after an incident did not start here.
            if i == 0 || !said[i - 1].is_some_and(|d| d.warned) {
                score.starts[class(probability)].count(came);
            }
        }
    }
}

/// The median; sorts in place. `None` of nothing.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let (low, high) = (values.get(n.checked_sub(1)? / 2)?, values.get(n / 2)?);
    Some(0.5 * (low + high))
}

/// Scores of several series as one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Total {
    /// Series.
    pub series: usize,
    /// Crossings.
    pub events: usize,
    /// Crossings that were warned of in time.
    pub warned: usize,
    /// Share of the crossings that were warned of in time.
    pub recall: f64,
    /// Share of the warnings that came true, per crossing.
    pub precision: f64,
    /// Harmonic mean of recall and precision.
    pub f1: f64,
    /// The same where precision counts more: the figure for alert fatigue.
    pub f05: f64,
    /// False warnings.
    pub false_pieces: usize,
    /// False warnings in a week of a series.
    pub false_per_week: f64,
    /// Median lead as a share of the horizon.
    pub lead_ratio: f64,
    /// Median |ln| error of the predicted time; `NaN` if no time was said.
    pub time_error: f64,
    /// Warnings per crossing foreseen.
    pub flapping: f64,
    /// Mean squared error of the probability; `NaN` if none was said.
    pub brier: f64,
    /// As in [`Score::moments`].
    pub moments: [Kept; 4],
    /// As in [`Score::starts`].
    pub starts: [Kept; 4],
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn f_beta(precision: f64, recall: f64, beta: f64) -> f64 {
    share((1.0 + beta * beta) * precision * recall, beta * beta * precision + recall)
}

/// Adds scores up; a series may be named more than once (bootstrap).
#[must_use]
pub fn total<'a>(scores: impl IntoIterator<Item = &'a Score>) -> Total {
    let mut all = Total::default();
    let (mut events, mut warned, mut hit, mut wrong) = (0.0, 0.0, 0.0, 0.0);
    let (mut true_pieces, mut hits, mut free_ms) = (0, 0, 0);
    let (mut brier_sum, mut brier_count) = (0.0, 0);
    let (mut leads, mut errors) = (Vec::new(), Vec::new());
    for score in scores {
        let weight = if score.events == 0 { 1.0 } else { (EVENTS_WEIGHED_MAX / score.events as f64).min(1.0) };
        events += weight * score.events as f64;
        warned += weight * score.warned as f64;
        hit += weight * score.hit as f64;
        wrong += weight * score.false_pieces as f64;
        all.series += 1;
        all.events += score.events;
        all.warned += score.warned;
        all.false_pieces += score.false_pieces;
        true_pieces += score.true_pieces;
        hits += score.hit;
        free_ms += score.free_ms;
        brier_sum += score.brier_sum;
        brier_count += score.brier_count;
        leads.extend_from_slice(&score.leads);
        errors.extend_from_slice(&score.time_errors);
        for i in 0..CLASSES.len() {
            all.moments[i].add(score.moments[i]);
            all.starts[i].add(score.starts[i]);
        }
    }
    all.recall = share(warned, events);
    all.precision = share(hit, hit + wrong);
    all.f1 = f_beta(all.precision, all.recall, 1.0);
    all.f05 = f_beta(all.precision, all.recall, 0.5);
    all.false_per_week = share(all.false_pieces as f64, free_ms as f64 / WEEK_MS);
    all.lead_ratio = median(&mut leads).unwrap_or(0.0);
    all.time_error = median(&mut errors).unwrap_or(f64::NAN);
    all.flapping = share(true_pieces as f64, hits as f64);
    all.brier = if brier_count > 0 { brier_sum / brier_count as f64 } else { f64::NAN };
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const START_MS: i64 = 1_700_006_400_000;
    const N: usize = 288;

    fn question() -> Question {
        Question::new(90.0, 4 * 3_600_000, TICK_MS, START_MS + 7_200_000)
    }

    fn at(bucket: usize) -> i64 {
        START_MS + bucket as i64 * TICK_MS
    }

    fn series(over: impl IntoIterator<Item = usize>) -> Vec<(i64, f64)> {
        let mut points: Vec<_> = (0..N).map(|i| (at(i), 50.0)).collect();
        for bucket in over {
            points[bucket].1 = 95.0;
        }
        points
    }

    fn judged(over: impl IntoIterator<Item = usize>, warned: impl IntoIterator<Item = usize>) -> Score {
        let warning = |i| Decision { at_ms: at(i), warned: true, likely_ms: None, probability: Some(0.7) };
        let decisions: Vec<_> = warned.into_iter().map(warning).collect();
        score(&series(over), &question(), &decisions)
    }

    #[test]
    fn warning_counts_if_it_stands_early_enough_and_until_the_crossing() {
        let kept = |s: &Score| (s.events, s.warned, s.hit, s.false_pieces, s.true_pieces);
        let early = judged(200..230, 180..201);
        assert_eq!(kept(&early), (1, 1, 1, 0, 1));
        assert!((early.leads[0] - 6000.0 / 14400.0).abs() < 1e-9);
        assert_eq!(early.starts[1], Kept { said: 1, true_said: 1 });
        assert_eq!(kept(&judged(200..230, 200..230)), (1, 0, 0, 0, 0), "at the crossing: nothing, and not false");
        assert_eq!(kept(&judged(200..230, 198..201)), (1, 0, 1, 0, 1), "too late, but true");
        assert_eq!(kept(&judged(200..230, 165..175)), (1, 0, 1, 0, 1), "taken back before, but true");
        assert_eq!(kept(&judged(200..230, 180..197)), (1, 1, 1, 0, 1), "a short pause is granted");
    }

    #[test]
    fn false_and_endless_and_flapping_warnings_are_counted() {
        let far = judged(200..230, 60..70);
        assert_eq!((far.hit, far.false_pieces), (0, 1));
        let endless = judged(200..230, 0..N);
        assert_eq!((endless.warned, endless.false_pieces, endless.leads[0]), (1, 2, 1.0));
        let flapping = judged(200..230, (160..165).chain(170..175).chain(180..201));
        assert_eq!((flapping.true_pieces, flapping.warned, flapping.false_pieces), (3, 1, 0));
    }

    #[test]
    fn blip_is_no_crossing_excuses_a_warning_and_is_none_itself() {
        let excused = judged([100], 80..90);
        assert_eq!((excused.events, excused.false_pieces, excused.neutral_pieces), (0, 0, 1));
        let itself = judged([100], [101]);
        assert_eq!((itself.false_pieces, itself.neutral_pieces, itself.hit), (0, 0, 0));
        assert_eq!(judged([100], 260..N).neutral_pieces, 1, "the end of the data cannot be judged");
    }

    #[test]
    fn near_incidents_are_one_and_an_early_one_is_none() {
        let events = |over: Vec<usize>| crossings(&series(over), &question());
        assert_eq!(events((150..160).chain(165..170).chain(220..224).collect()), [at(150), at(220)]);
        assert!(events((0..60).collect()).is_empty());
        let mut gap = series(200..230);
        gap.drain(203..205);
        assert_eq!(crossings(&gap, &question()), [at(200)]);
    }

    #[test]
    fn time_error_and_brier_are_those_of_hand() {
        let points = series(200..230);
        let late = |i| {
            let likely_ms = Some(at(i) + 2 * (at(200) - at(i)));
            Decision { at_ms: at(i), warned: true, likely_ms, probability: Some(0.9) }
        };
        let said = score(&points, &question(), &(180..201).map(late).collect::<Vec<_>>());
        assert!((said.time_errors[0] - 2.0_f64.ln()).abs() < 1e-9);
        let sure = |i| Decision { at_ms: at(i), warned: false, likely_ms: None, probability: Some(1.0) };
        let said = score(&points, &question(), &(152..200).map(sure).collect::<Vec<_>>());
        assert!(said.brier_count > 0 && said.brier_sum == 0.0);
    }

    #[test]
    fn total_weighs_recall_and_precision() {
        let all = total([&judged(200..230, 180..201), &judged(200..230, 60..70)]);
        assert_eq!((all.recall, all.precision, all.f1), (0.5, 0.5, 0.5));
        assert!(total([]).brier.is_nan());
    }
}
