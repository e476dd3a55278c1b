//! One forecast as a picture: an SVG for documents and a block of text for the terminal.
//! Text out; no files, no judgement.

use std::fmt::Write;

use crate::model::forecast::{Because, Carry, Expert, Forecast, Reason, State};

/// Points drawn of the history; more would not be seen and make the file large.
const POINTS_MAX: usize = 360;
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 30.0;
const ROWS: usize = 16;
const COLUMNS: usize = 76;

/// How many horizons of the past a plot of the command line shows.
pub const PAST_HORIZONS: i64 = 6;
/// Reasons that are said; the rest is in the JSON.
const REASONS_MAX: usize = 3;

/// What to draw: the past, what was said, and, for a story told afterwards, what then happened.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Drawn above the plot.
    pub title: &'a str,
    /// Samples up to the moment of the forecast, in time order.
    pub past: &'a [(i64, f64)],
    /// The answer.
    pub said: &'a Forecast,
    /// Samples after it; empty if they are not known.
    pub then: &'a [(i64, f64)],
}

struct Frame {
    from_ms: i64,
    to_ms: i64,
    low: f64,
    high: f64,
}

impl Frame {
    fn of(picture: &Picture<'_>) -> Self {
        let said = picture.said;
        let from_ms = picture.past.first().map_or(said.at_ms, |p| p.0);
        let known = picture.then.last().map_or(said.at_ms, |p| p.0);
        let to_ms = known.max(said.at_ms.saturating_add(said.horizon_ms)).max(from_ms + 1);
        let values = picture.past.iter().chain(picture.then).map(|p| p.1);
        let band = said.band.iter().flat_map(|b| [b.low, b.high]);
        let (mut low, mut high) = (said.threshold, said.threshold);
        for value in values.chain(band).filter(|v| v.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        let room = if high > low { 0.06 * (high - low) } else { 1.0 };
        Self { from_ms, to_ms, low: low - room, high: high + room }
    }

    fn share_x(&self, t_ms: i64) -> f64 {
        (t_ms - self.from_ms) as f64 / (self.to_ms - self.from_ms) as f64
    }

    fn share_y(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn x(&self, t_ms: i64) -> f64 {
        LEFT + self.share_x(t_ms) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.share_y(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn line(&self, points: impl Iterator<Item = (i64, f64)>) -> String {
        points.filter(|p| p.1.is_finite()).fold(String::new(), |mut line, (t_ms, value)| {
            // Writing to a string cannot fail.
            let _ = write!(line, "{:.1},{:.1} ", self.x(t_ms), self.y(value));
            line
        })
    }
}

/// The picture as an SVG document.
#[must_use]
pub fn svg(picture: &Picture<'_>) -> String {
    let f = Frame::of(picture);
    let said = picture.said;
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    let mut put = |line: std::fmt::Arguments<'_>| {
        let _ = s.write_fmt(line);
        s.push('\n');
    };
    let (top, bottom) = (TOP, HEIGHT - BOTTOM);
    if let State::Warning { earliest_ms, likely_ms, latest_ms, .. } = said.state {
        let (a, b) = (f.x(earliest_ms), f.x(latest_ms).min(WIDTH - RIGHT));
        put(format_args!(
            "<rect x=\"{a:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#f7d9a8\" opacity=\".55\"/>",
            (b - a).max(1.0),
            bottom - top
        ));
        let x = f.x(likely_ms).min(WIDTH - RIGHT);
        put(format_args!("<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#c77700\"/>"));
    }
    if !said.band.is_empty() {
        let upper = f.line(said.band.iter().map(|b| (b.t_ms, b.high)));
        let lower = f.line(said.band.iter().rev().map(|b| (b.t_ms, b.low)));
        put(format_args!("<polygon points=\"{upper}{lower}\" fill=\"#8db4e2\" opacity=\".45\"/>"));
        let middle = f.line(said.band.iter().map(|b| (b.t_ms, b.mid)));
        put(format_args!("<polyline points=\"{middle}\" fill=\"none\" stroke=\"#3b73b9\" stroke-dasharray=\"4 3\"/>"));
    }
    let then = f.line(thinned(picture.then));
    put(format_args!("<polyline points=\"{then}\" fill=\"none\" stroke=\"#b5b5b5\"/>"));
    let past = f.line(thinned(picture.past));
    put(format_args!("<polyline points=\"{past}\" fill=\"none\" stroke=\"#1f3a5f\" stroke-width=\"1.4\"/>"));
    let y = f.y(said.threshold);
    put(format_args!(
        "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#c0392b\"/>",
        WIDTH - RIGHT
    ));
    let x = f.x(said.at_ms);
    put(format_args!(
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#888\" stroke-dasharray=\"2 3\"/>"
    ));
    let high = f.high;
    put(format_args!("<text x=\"{LEFT}\" y=\"14\" font-weight=\"bold\">{}</text>", escaped(picture.title)));
    put(format_args!("<text x=\"{LEFT}\" y=\"29\" fill=\"#555\">{}</text>", escaped(&sentence(said))));
    for (value, y) in [(high, top + 4.0), (f.low, bottom), (said.threshold, y + 4.0)] {
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"#555\">{}</text>",
            LEFT - 4.0,
            number(value)
        ));
    }
    put(format_args!("<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">now</text>", bottom + 14.0));
    // Beside the mark for now there must be room for the mark of the begin.
    if x > LEFT + 100.0 {
        put(format_args!(
            "<text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#555\">{} ago</text>",
            bottom + 14.0,
            span(said.at_ms - f.from_ms)
        ));
    }
    put(format_args!("</svg>"));
    s
}

/// The picture as lines of text: `*` past, `:` expected band, `-` threshold, `|` now, `x` the
/// range of the crossing.
#[must_use]
pub fn text(picture: &Picture<'_>) -> String {
    let f = Frame::of(picture);
    let said = picture.said;
    let mut cells = vec![[' '; COLUMNS]; ROWS];
    let column = |t_ms: i64| ((f.share_x(t_ms).clamp(0.0, 1.0) * (COLUMNS - 1) as f64) as usize).min(COLUMNS - 1);
    let row = |value: f64| ROWS - 1 - ((f.share_y(value).clamp(0.0, 1.0) * (ROWS - 1) as f64).round() as usize);
    let threshold_row = row(said.threshold);
    for pair in said.band.windows(2) {
        // Every column between two points of the band, so that it has no holes.
        for x in column(pair[0].t_ms)..=column(pair[1].t_ms) {
            for cells in &mut cells[row(pair[1].high)..=row(pair[1].low)] {
                cells[x] = ':';
            }
        }
    }
    cells[threshold_row] = ['-'; COLUMNS];
    let now = column(said.at_ms);
    for line in &mut cells {
        line[now] = '|';
    }
    if let State::Warning { earliest_ms, latest_ms, .. } = said.state {
        cells[threshold_row][column(earliest_ms)..=column(latest_ms)].fill('x');
    }
    for p in picture.past.iter().filter(|p| p.1.is_finite()) {
        cells[row(p.1)][column(p.0)] = '*';
    }
    let mut text = String::new();
    let step = (f.high - f.low) / (ROWS - 1) as f64;
    for (i, line) in cells.iter().enumerate() {
        // The threshold's row carries the threshold itself.
        let value = if i == threshold_row { said.threshold } else { f.high - step * i as f64 };
        let _ = writeln!(text, "{:>10} {}", number(value), line.iter().collect::<String>().trim_end());
    }
    let (past, ahead) = (span(said.at_ms - f.from_ms), span(f.to_ms - said.at_ms));
    let mut axis = vec![' '; COLUMNS];
    let put = |axis: &mut Vec<char>, from: usize, word: &str| {
        for (cell, letter) in axis.iter_mut().skip(from).zip(word.chars()) {
            *cell = letter;
        }
    };
    if said.at_ms > f.from_ms && now > past.len() + 6 {
        put(&mut axis, 0, &format!("{past} ago"));
    }
    put(&mut axis, now.saturating_sub(1).min(COLUMNS - 3), "now");
    let ahead_from = COLUMNS.saturating_sub(ahead.len() + 3);
    if ahead_from > now + 2 {
        put(&mut axis, ahead_from, &format!("in {ahead}"));
    }
    let _ = writeln!(text, "{:>10} {}", "", axis.iter().collect::<String>().trim_end());
    text
}

/// The answer in one English sentence.
#[must_use]
pub fn sentence(said: &Forecast) -> String {
    let (threshold, horizon) = (number(said.threshold), span(said.horizon_ms));
    match said.state {
        State::NoForecast { reason } => format!("no forecast: {}", refusal(reason)),
        State::Stable => {
            let percent = percent(said.probability);
            format!("stable at {}: {percent} to reach {threshold} within {horizon}", number(said.value))
        }
        State::Breached => format!("breached: {} is at or over {threshold}", number(said.value)),
        State::Warning { probability, earliest_ms, likely_ms, latest_ms } => format!(
            "warning: {} to reach {threshold} within {horizon}, in about {} (between {} and {}); now {}",
            percent(probability),
            span(likely_ms - said.at_ms),
            span(earliest_ms - said.at_ms),
            span(latest_ms - said.at_ms),
            number(said.value),
        ),
    }
}

/// Why, as parts of one English sentence, most telling first.
#[must_use]
pub fn because(said: &Forecast) -> Vec<String> {
    if said.state == State::Breached {
        // A fact needs no reason.
        return Vec::new();
    }
    said.reasons.iter().filter_map(|because| reason(*because, said)).take(REASONS_MAX).collect()
}

fn reason(because: Because, said: &Forecast) -> Option<String> {
    Some(match because {
        Because::Record { horizons, .. } if horizons < 1.0 => return None,
        Because::Record { crossed_ratio, horizons } => format!(
            "from states like this one, {} went over within {} (about {:.0} such spans of its own past)",
            times(crossed_ratio),
            span(said.horizon_ms),
            horizons.floor()
        ),
        Because::Expert { expert, expects, .. } => {
            format!("{} has been right most often here and expects up to {}", way(expert), number(expects))
        }
        Because::Trend { window_ms, slope_per_hour, .. } => format!(
            "it {} by {} an hour over the last {}",
            if slope_per_hour < 0.0 { "falls" } else { "rises" },
            number(slope_per_hour.abs()),
            span(window_ms)
        ),
        Because::Sawtooth { period_ms, top } => {
            format!("it comes down by itself about every {}, next peak about {}", span(period_ms), number(top))
        }
        Because::Decomposition { probability, .. } => {
            format!("its daily and weekly season with trend gives {}", percent(probability))
        }
        Because::DecompositionWaits => "its season with trend waits to be fitted again".into(),
        Because::Reset { age_ms } => format!("its trend is counted from the drop {} ago", span(age_ms)),
    })
}

fn way(expert: Expert) -> String {
    match expert {
        Expert::Hold => "\"it stays as it is\"".into(),
        Expert::Trend { half: false, .. } => "its recent straight trend".into(),
        Expert::Trend { half: true, .. } => "half of its recent trend".into(),
        Expert::LongTrend => "its long trend".into(),
        Expert::Envelope { .. } => "the drift of its peaks".into(),
        Expert::Season { days, carry } => {
            let day = match days {
                1 => "yesterday".to_owned(),
                7 => "a week ago".to_owned(),
                _ => format!("{days} days ago"),
            };
            let what = match carry {
                Carry::Level => "the level",
                Carry::Rise => "the rise",
                Carry::Drift => "the level plus drift",
                Carry::Growth => "the level times growth",
            };
            format!("{what} of the same hours {day}")
        }
    }
}

/// A share as one of ten, where a percentage would claim more than was counted.
fn times(ratio: f64) -> String {
    match (10.0 * ratio).round() as i64 {
        0 if ratio < 0.01 => "none".into(),
        0 => "fewer than one in ten".into(),
        10 => "nearly all".into(),
        tenths => format!("{tenths} in ten"),
    }
}

fn percent(probability: f64) -> String {
    match 100.0 * probability {
        below if below < 1.0 => "below 1 %".into(),
        above if above > 99.0 => "over 99 %".into(),
        percent => format!("{percent:.0} %"),
    }
}

/// A value with the digits that people read, whatever its size.
#[must_use]
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    for (size, unit) in [(1e12_f64, "T"), (1e9, "G"), (1e6, "M")] {
        // Whole numbers are read up to seven digits.
        if magnitude >= size.max(1e7) && magnitude < 1e15 {
            return format!("{:.2} {unit}", value / size);
        }
    }
    match magnitude {
        1e15.. | ..1e-4 => format!("{value:.2e}"),
        1000.0.. => format!("{value:.0}"),
        _ => {
            let text = match magnitude {
                10.0.. => format!("{value:.1}"),
                1.0.. => format!("{value:.2}"),
                _ => format!("{value:.4}"),
            };
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

fn refusal(reason: Reason) -> String {
    match reason {
        Reason::TooShort { have_ms, need_ms } => {
            format!("{} of history, {} is needed", span(have_ms), span(need_ms))
        }
        Reason::TooManyGaps { missing_ratio, limit_ratio } => format!(
            "{:.0} % of the recent samples are missing, {:.0} % is the most",
            100.0 * missing_ratio,
            100.0 * limit_ratio
        ),
        Reason::Stale { age_ms, .. } => format!("the last sample is {} old", span(age_ms)),
        Reason::HorizonTooLong { limit_ms } => {
            format!("the horizon is longer than {}, the most at this bucket length; shorten it", span(limit_ms))
        }
        Reason::BadQuestion => "threshold or horizon is not usable".into(),
    }
}

/// A length of time for people.
#[must_use]
pub fn span(ms: i64) -> String {
    let minutes = ms / 60_000;
    match minutes {
        ..=0 => format!("{} s", ms.max(0) / 1000),
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", tenths(minutes as f64 / 60.0)),
        _ => format!("{} d", tenths(minutes as f64 / 1440.0)),
    }
}

fn tenths(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// At most `POINTS_MAX` points; each group keeps its lowest and highest, so that teeth stay visible.
fn thinned(points: &[(i64, f64)]) -> impl Iterator<Item = (i64, f64)> {
    let group = points.len().div_ceil(POINTS_MAX / 2).max(1);
    points.chunks(group).flat_map(|chunk| {
        let low = chunk.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
        let high = chunk.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut pair: Vec<(i64, f64)> = low.into_iter().chain(high).collect();
        pair.sort_by_key(|p| p.0);
        pair.dedup();
        pair
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
