//! What an incident keeps of what it was judged on: bounded, so that a log storm or a crash loop stays one small row.

use forewarn_common::block::{EngineEvent, LogSample};

use crate::model::forecast::{Because, Forecast, State};
use crate::model::incident::{EventEvidence, Evidence, LineEvidence};

/// Matching lines kept, the newest.
const LINES_MAX: usize = 5;
/// Lines and their context together; a row stays small on any engine. Context goes first, the oldest line's first.
const LINES_BYTES_MAX: usize = 32 << 10;
/// Engine events kept, the newest; also the most restarts that a restart loop rule can count.
pub(super) const EVENTS_MAX: usize = 64;
/// Reasons of a forecast kept, the most telling.
const REASONS_MAX: usize = 8;

/// The longest head of `text` within `bytes_max` that ends between two characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

/// Adds sampled lines, newest first.
pub(super) fn add_lines(evidence: &mut Evidence, samples: &[LogSample]) {
    for sample in samples {
        let line = LineEvidence {
            at_ms: sample.at_ms,
            line: sample.line.clone(),
            before: sample.before.clone(),
            after: sample.after.clone(),
        };
        let place = evidence.lines.partition_point(|kept| kept.at_ms > line.at_ms);
        evidence.lines.insert(place, line);
    }
    evidence.lines.truncate(LINES_MAX);
    let mut bytes_left = LINES_BYTES_MAX;
    for kept in &mut evidence.lines {
        kept.line = cut(&kept.line, bytes_left.min(forewarn_common::limit::LINE_BYTES_MAX));
        bytes_left -= kept.line.len();
    }
    for kept in &mut evidence.lines {
        let bytes: usize = kept.before.iter().chain(&kept.after).map(String::len).sum();
        if bytes > bytes_left {
            kept.before.clear();
            kept.after.clear();
        } else {
            bytes_left -= bytes;
        }
    }
}

/// Adds an engine event, newest first; of two at the same time the one that came later is the newer.
pub(super) fn add_event(evidence: &mut Evidence, event: &EngineEvent) {
    let place = evidence.events.partition_point(|kept| kept.at_ms > event.at_ms);
    evidence.events.insert(place, EventEvidence { at_ms: event.at_ms, kind: event.kind, code: event.code });
    evidence.events.truncate(EVENTS_MAX);
}

/// The forecast as kept: without its plot, with finite numbers only; `None` when its own are not.
pub(super) fn kept_forecast(forecast: &Forecast) -> Option<Forecast> {
    let told = match forecast.state {
        State::Warning { probability, .. } => probability,
        State::NoForecast { .. } | State::Stable | State::Breached => 0.0,
    };
    let numbers = [forecast.probability, forecast.value, forecast.threshold, told];
    numbers.iter().all(|number| number.is_finite()).then(|| Forecast {
        reasons: forecast.reasons.iter().copied().filter(is_finite).take(REASONS_MAX).collect(),
        band: Vec::new(),
        ..forecast.clone()
    })
}

// JSON has no infinity: one such number would make the row unreadable.
fn is_finite(because: &Because) -> bool {
    match *because {
        Because::Expert { weight_ratio, expects, .. } => weight_ratio.is_finite() && expects.is_finite(),
        Because::Record { crossed_ratio, horizons } => crossed_ratio.is_finite() && horizons.is_finite(),
        Because::Trend { slope_per_hour, probability, .. } => slope_per_hour.is_finite() && probability.is_finite(),
        Because::Sawtooth { top, .. } => top.is_finite(),
        Because::Reset { .. } | Because::DecompositionWaits => true,
        Because::Decomposition { probability, .. } => probability.is_finite(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_long_lines_stays_one_small_row() {
        let mut evidence = Evidence::default();
        let long = "行".repeat(680);
        for at_ms in 0..100 {
            let sample = LogSample { at_ms, line: long.clone(), before: vec![long.clone(); 20], after: vec![] };
            add_lines(&mut evidence, &[sample]);
        }
        let times: Vec<_> = evidence.lines.iter().map(|line| line.at_ms).collect();
        assert_eq!(times, [99, 98, 97, 96, 95], "the newest, newest first");
        let bytes: usize =
            evidence.lines.iter().flat_map(|line| line.before.iter().chain([&line.line])).map(String::len).sum();
        assert!(bytes <= LINES_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn a_short_line_keeps_its_context() {
        let mut evidence = Evidence::default();
        let sample = LogSample { at_ms: 1, line: "boom".into(), before: vec!["a".into()], after: vec!["b".into()] };
        add_lines(&mut evidence, &[sample]);
        assert_eq!((evidence.lines[0].before.len(), evidence.lines[0].after.len()), (1, 1));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("先见", 4), "先");
        assert_eq!(cut("先见", 6), "先见");
        assert_eq!(cut("先见", 2), "");
    }
}
