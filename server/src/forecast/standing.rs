//! What of a judgement lasts from bucket to bucket: whether a warning stands, the evidence for one that
//! does not yet, and how the earlier ones turned out. No probability is made here.

use serde::{Deserialize, Serialize};

use super::learn::HELD_BUCKETS;
use super::settings::Model;

/// A warning is taken for false when this many horizons passed without the crossing …
const PATIENCE_HORIZONS: f64 = 1.25;
/// … or when it was withdrawn after at least this share of one.
const WITHDRAWN_HORIZONS: f64 = 0.2;
/// A series younger than this many horizons is not blamed: it could not know better, as with a first tooth.
pub(super) const YOUNG_HORIZONS: usize = 4;
/// Evidence left by a warning that a silence ended.
const SURE_BUCKET: f64 = 1.0;
/// Probabilities are kept this far from certainty before they are doubted.
const SURE: f64 = 1e-6;

/// The part of a state that cannot be learnt again from the retained window. Small, and kept across restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Whether a warning stands.
    pub(super) warning: bool,
    /// Evidence for a warning that is not given yet.
    evidence: f64,
    /// Warnings of this series after which nothing came.
    cried: u32,
    /// Warnings of this series that came true.
    kept: u32,
    /// Bucket number from which the standing warning waits for its outcome.
    since: Option<i64>,
    /// Buckets in a row that were over.
    over: u32,
}

/// A bucket as it was judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    pub(super) number: i64,
    pub(super) probability: f64,
    pub(super) over: bool,
}

impl Standing {
    /// A standing warning of which nothing else is known.
    pub(super) fn of_warning(warning: bool) -> Self {
        Self { warning, ..Self::default() }
    }

    /// Takes one judged bucket; `known` is how many buckets of the series are remembered.
    pub(super) fn confirm(&mut self, bucket: Judged, horizon: usize, known: usize, model: &Model) {
        let Judged { number, probability, over } = bucket;
        let h = horizon as f64;
        self.over = if over { self.over.saturating_add(1) } else { 0 };
        let waited = self.since.map(|since| (number - since) as f64);
        if self.warning && waited.is_some() {
            if self.over as usize == HELD_BUCKETS {
                self.kept = self.kept.saturating_add(1);
                self.since = None;
            } else if waited.is_some_and(|waited| waited >= PATIENCE_HORIZONS * h) {
                self.cried = self.cried.saturating_add(1);
                self.since = Some(number);
            }
        }
        if self.warning {
            if probability < model.off_probability {
                if self.since.is_some_and(|since| (number - since) as f64 > WITHDRAWN_HORIZONS * h) {
                    self.cried = self.cried.saturating_add(1);
                }
                self.end();
            }
            return;
        }
        let doubted = self.doubt(probability, model);
        self.evidence = (self.evidence + doubted - model.evidence_from).max(0.0);
        if self.evidence >= model.evidence_needed && doubted >= model.on_probability {
            self.warning = true;
            self.evidence = 0.0;
            // A warning that begins when it is over already has nothing to wait for.
            let waits = (self.over as usize) < HELD_BUCKETS && known >= YOUNG_HORIZONS * horizon;
            self.since = waits.then_some(number);
        }
    }

    /// Whether nothing stands, waits or has gathered: then buckets without evidence leave it as it is.
    pub(super) fn is_quiet(&self) -> bool {
        !self.warning && self.evidence == 0.0 && self.over == 0 && self.since.is_none()
    }

    /// After a silence nothing is known: what was believed before it must be shown again, by one sure bucket.
    pub(super) fn lapse(&mut self) {
        let stood = self.warning;
        self.over = 0;
        self.end();
        self.evidence = if stood { SURE_BUCKET } else { 0.0 };
    }

    fn end(&mut self) {
        self.warning = false;
        self.evidence = 0.0;
        self.since = None;
    }

    /// A series whose warnings were mostly false has to be surer, in log odds, to be believed again.
    fn doubt(&self, probability: f64, model: &Model) -> f64 {
        if self.cried <= self.kept {
            return probability;
        }
        let shift = model.doubt * ((f64::from(self.cried) + 1.0) / (f64::from(self.kept) + 1.0)).ln();
        let p = probability.clamp(SURE, 1.0 - SURE);
        1.0 / (1.0 + ((1.0 - p) / p) * shift.exp())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const HORIZON: usize = 12;

    fn told(standing: &mut Standing, from: i64, probabilities: &[(f64, bool)], model: &Model) -> i64 {
        for (number, (p, over)) in (from..).zip(probabilities) {
            let bucket = Judged { number, probability: *p, over: *over };
            standing.confirm(bucket, HORIZON, 100 * HORIZON, model);
        }
        from + probabilities.len() as i64
    }

    #[test]
    fn series_that_cried_wolf_must_be_surer() {
        let model = Model::default();
        let mut standing = Standing::default();
        let mut number = 0;
        for _ in 0..8 {
            number = told(&mut standing, number, &[(0.8, false); 8], &model);
            assert!(standing.warning);
            number = told(&mut standing, number, &[(0.0, false); 2], &model);
            assert!(!standing.warning);
        }
        number = told(&mut standing, number, &[(0.62, false); 12], &model);
        assert!(!standing.warning, "62 % is not enough after eight false warnings");
        told(&mut standing, number, &[(0.9, false); 3], &model);
        assert!(standing.warning, "what is clear is believed again");
    }

    #[test]
    fn warnings_that_came_true_keep_the_trust() {
        let model = Model::default();
        let mut standing = Standing::default();
        let mut number = 0;
        for _ in 0..8 {
            number = told(&mut standing, number, &[(0.8, false); 8], &model);
            number = told(&mut standing, number, &[(0.9, true); 4], &model);
            number = told(&mut standing, number, &[(0.0, false); 2], &model);
        }
        assert_eq!((standing.cried, standing.kept), (0, 8));
        told(&mut standing, number, &[(0.62, false); 5], &model);
        assert!(standing.warning);
    }

    #[test]
    fn silence_ends_a_warning_without_blame() {
        let model = Model::default();
        let mut standing = Standing::default();
        told(&mut standing, 0, &[(0.9, false); 10], &model);
        standing.lapse();
        assert!(!standing.warning && standing.cried == 0);
    }
}
