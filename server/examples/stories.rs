//! Draws the six stories of `docs/forecasting.md` from seeded series, with the forecast that the
//! product gives: `cargo run -p forewarn-server --example stories -- docs/img`.

#[path = "../tests/suite/stories.rs"]
mod stories;

use std::path::PathBuf;

use forewarn_server::forecast::{Model, State, step};
use forewarn_server::model::forecast::State as Answer;
use forewarn_server::replay::plot::{self, Picture};

const HOUR_MS: i64 = 3_600_000;

struct Story {
    name: &'static str,
    title: &'static str,
    values: Vec<f64>,
    threshold: f64,
    horizon_ms: i64,
    /// The share of the series that is history only.
    at_ratio: f64,
    /// Told at the first warning after that, or just there.
    wait: bool,
}

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "docs/img".into()));
    std::fs::create_dir_all(&folder)?;
    let story = |name, title, values, threshold, hours, at_ratio, wait| Story {
        name,
        title,
        values,
        threshold,
        horizon_ms: hours * HOUR_MS,
        at_ratio,
        wait,
    };
    let stories = [
        story("steady-fill", "A disk fills steadily", stories::steady_fill(1, 10), 90.0, 24, 0.1, true),
        story("log-rotation", "Logs rotate: silent", stories::log_rotation(3, 10), 90.0, 24, 0.93, false),
        story(
            "growing-weeks",
            "Office-hours peaks that grow from week to week",
            stories::growing_weeks(2, 24),
            82.0,
            4,
            0.925,
            true,
        ),
        story(
            "leak-gc",
            "A heap leaks under garbage collection",
            stories::leak_under_collection(4, 5),
            86.0,
            4,
            0.1,
            true,
        ),
        story("deploy-step", "A deploy step is no trend", stories::deploy_step(5, 4), 90.0, 4, 0.77, false),
        story("no-forecast", "Fifty minutes old", stories::steady_fill(6, 10), 90.0, 24, 0.0035, false),
    ];
    for story in stories {
        draw(&story, &folder)?;
    }
    Ok(())
}

fn draw(story: &Story, folder: &std::path::Path) -> std::io::Result<()> {
    let model = Model { close_after_ms: 0, ..Model::default() };
    let points = stories::points(&story.values);
    let stop = (story.at_ratio * points.len() as f64) as usize;
    let mut state = State::new(story.horizon_ms, &model);
    let mut at = points.len() - 1;
    let mut last = None;
    for (i, point) in points.iter().enumerate() {
        let (next, said) = step(state, &[*point], story.threshold, story.horizon_ms, point.0, &model);
        state = next;
        let warned = matches!(said.state, Answer::Warning { .. });
        last = Some(said);
        if i >= stop && (warned || !story.wait) {
            at = i;
            break;
        }
    }
    let Some(said) = last else { return Ok(()) };
    // As much of the past as makes the horizon visible, and what came after.
    let span = (story.horizon_ms / stories::STEP_MS) as usize;
    let from = at.saturating_sub(6 * span);
    let to = (at + span + 1).min(points.len());
    let then = if matches!(said.state, Answer::NoForecast { .. }) { &[][..] } else { &points[at..to] };
    let picture = Picture { title: story.title, past: &points[from..=at], said: &said, then };
    std::fs::write(folder.join(format!("{}.svg", story.name)), plot::svg(&picture))
}
