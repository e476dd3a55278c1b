//! One forecast as a picture: an SVG for documents and a block of text for the terminal.
//! Text out; no files, no judgement.

use std::fmt::Write;

use crate::model::forecast::{Forecast, Reason, State};

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
            "<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"#555\">{value:.1}</text>",
            LEFT - 4.0
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

/// The picture as lines of text: `.` past, `:` band, `-` threshold, `|` now.
#[must_use]
pub fn text(picture: &Picture<'_>) -> String {
    let f = Frame::of(picture);
    let mut cells = vec![[' '; COLUMNS]; ROWS];
    let column = |t_ms: i64| ((f.share_x(t_ms) * (COLUMNS - 1) as f64) as usize).min(COLUMNS - 1);
    let row = |value: f64| ROWS - 1 - ((f.share_y(value).clamp(0.0, 1.0) * (ROWS - 1) as f64).round() as usize);
    cells[row(picture.said.threshold)] = ['-'; COLUMNS];
    for b in &picture.said.band {
        for cell in &mut cells[row(b.high)..=row(b.low)] {
            cell[column(b.t_ms)] = ':';
        }
    }
    for line in &mut cells {
        line[column(picture.said.at_ms)] = '|';
    }
    for p in picture.past.iter().filter(|p| p.1.is_finite()) {
        cells[row(p.1)][column(p.0)] = '.';
    }
    let mut text = String::new();
    for (i, line) in cells.iter().enumerate() {
        let value = f.high - (f.high - f.low) * i as f64 / (ROWS - 1) as f64;
        let _ = writeln!(text, "{value:>10.1} {}", line.iter().collect::<String>().trim_end());
    }
    text
}

/// The answer in one English sentence.
#[must_use]
pub fn sentence(said: &Forecast) -> String {
    match said.state {
        State::NoForecast { reason } => format!("no forecast: {}", refusal(reason)),
        State::Stable => format!(
            "stable: {:.0} % to reach {} within {}",
            100.0 * said.probability,
            said.threshold,
            span(said.horizon_ms)
        ),
        State::Breached => format!("breached: {:.1} is at or over {}", said.value, said.threshold),
        State::Warning { probability, earliest_ms, likely_ms, latest_ms } => format!(
            "warning: {:.0} % to reach {} within {}, in about {} (between {} and {})",
            100.0 * probability,
            said.threshold,
            span(said.horizon_ms),
            span(likely_ms - said.at_ms),
            span(earliest_ms - said.at_ms),
            span(latest_ms - said.at_ms)
        ),
    }
}

fn refusal(reason: Reason) -> String {
    match reason {
        Reason::TooShort { have_ms, need_ms } => {
            format!("{} of history, {} needed", span(have_ms), span(need_ms))
        }
        Reason::TooManyGaps { missing_ratio, limit_ratio } => format!(
            "{:.0} % of the samples are missing, {:.0} % is the most",
            100.0 * missing_ratio,
            100.0 * limit_ratio
        ),
        Reason::Stale { age_ms, .. } => format!("the last sample is {} old", span(age_ms)),
        Reason::HorizonTooLong { limit_ms } => {
            format!("the horizon is longer than {}", span(limit_ms))
        }
        Reason::BadQuestion => "threshold or horizon is not usable".into(),
    }
}

/// A length of time for people.
fn span(ms: i64) -> String {
    let minutes = ms / 60_000;
    match minutes {
        0 => format!("{} s", ms / 1000),
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{:.1} h", minutes as f64 / 60.0),
        _ => format!("{:.1} d", minutes as f64 / 1440.0),
    }
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
