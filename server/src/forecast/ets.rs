//! Exponential smoothing without seasons: the level carried on, with no trend, a straight one or a damped one, errors
//! absolute or relative (the six forms of Hyndman, Koehler, Ord and Snyder, 2008, chapter 2), chosen by AICc. What
//! the library's AutoETS searches, in fewer passes: the first level and slope follow from the rest by least squares,
//! and each pass over the series tries four sets of parameters. Numbers in, numbers out.

use serde::{Deserialize, Serialize};

/// Sets of parameters of one pass.
const LANES: usize = 4;
/// Least and greatest of the level's, the slope's and the damping's parameter, as the library bounds them.
const LOW: [f64; 3] = [1e-4, 1e-4, 0.8];
const HIGH: [f64; 3] = [0.9999, 0.2, 0.98];
/// Where a search begins.
const BEGIN: [f64; 3] = [0.2, 0.02, 0.978];
/// Width of the first simplex, of a search and of one that begins at what fitted before.
const WIDE: [f64; 3] = [0.15, 0.02, -0.03];
const NARROW: [f64; 3] = [0.02, 0.004, -0.005];
/// Passes of a search at most.
const PASSES_MAX: usize = 120;
/// A search ends when its simplex agrees on twice the log-likelihood to this.
const AGREED: f64 = 1e-3;
/// Points that the first level and slope are guessed from.
const GUESS_POINTS: usize = 10;
/// Points between two looks at whether the beginning still matters, and below what it does not.
const BLOCK: usize = 32;
const FORGOTTEN: f64 = 1e-20;

type Lanes = [f64; LANES];
type Sets = [[f64; 3]; LANES];

/// The trend of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trend {
    /// The level alone.
    Flat,
    /// A slope that stays.
    Straight,
    /// A slope that fades.
    Damped,
}

/// A form with its parameters: where the next search begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Form {
    /// Whether errors are shares of the level.
    pub relative: bool,
    /// Its trend.
    pub trend: Trend,
    /// The level's, the slope's and the damping's parameter.
    pub at: [f32; 3],
}

/// A form fitted to a series.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    /// Which, and its parameters.
    pub form: Form,
    /// Corrected information criterion: less is better.
    pub aicc: f64,
    set: [f64; 3],
    level: f64,
    slope: f64,
    variance: f64,
}

/// The best of the six forms; relative errors only where all values are positive. None for too few points.
#[must_use]
pub fn search(y: &[f64]) -> Option<Fit> {
    let positive = y.iter().all(|v| *v > 0.0);
    let trends = [Trend::Flat, Trend::Straight, Trend::Damped];
    let forms = [false, true].into_iter().filter(|relative| positive || !relative);
    let fits = forms.flat_map(|relative| trends.map(|trend| (relative, trend)));
    fits.filter_map(|(relative, trend)| fit(y, relative, trend, BEGIN, WIDE)).min_by(|a, b| a.aicc.total_cmp(&b.aicc))
}

/// The form that was best before, its parameters sought near where they were.
#[must_use]
pub fn search_near(y: &[f64], form: &Form) -> Option<Fit> {
    if form.relative && y.iter().any(|v| *v <= 0.0) {
        return None;
    }
    fit(y, form.relative, form.trend, form.at.map(f64::from), NARROW)
}

fn fit(y: &[f64], relative: bool, trend: Trend, begin: [f64; 3], width: [f64; 3]) -> Option<Fit> {
    let (dimensions, states) = match trend {
        Trend::Flat => (1, 1),
        Trend::Straight => (2, 2),
        Trend::Damped => (3, 2),
    };
    let (n, k) = (y.len() as f64, f64::from(dimensions + states));
    // One more for the variance.
    let spare = n - (k + 1.0) - 1.0;
    if spare < 1.0 {
        return None;
    }
    let path = Path { y, relative, trend, guess: guess(y, trend) };
    let (set, best) = descend(&path, dimensions as usize, begin, width);
    if !best.is_finite() {
        return None;
    }
    let (level, slope, squares) = path.end(set);
    let aicc = best + 2.0 * k + 2.0 * (k + 1.0) * (k + 2.0) / spare;
    let variance = squares / (n - k - 2.0).max(1.0);
    let form = Form { relative, trend, at: set.map(|p| p as f32) };
    (aicc.is_finite() && variance.is_finite()).then_some(Fit { form, aicc, set, level, slope, variance })
}

/// A straight line through the first points: level before them, and slope.
fn guess(y: &[f64], trend: Trend) -> (f64, f64) {
    let first = &y[..y.len().min(GUESS_POINTS)];
    let n = first.len() as f64;
    let mean = first.iter().sum::<f64>() / n;
    if trend == Trend::Flat || first.len() < 2 {
        return (mean, 0.0);
    }
    let middle = (n + 1.0) / 2.0;
    let (mut xy, mut xx) = (0.0, 0.0);
    for (i, v) in first.iter().enumerate() {
        let x = i as f64 + 1.0 - middle;
        (xy, xx) = (xy + x * (v - mean), xx + x * x);
    }
    (mean - xy / xx * middle, xy / xx)
}

/// A series under one form.
struct Path<'a> {
    y: &'a [f64],
    relative: bool,
    trend: Trend,
    guess: (f64, f64),
}

/// Sums over the errors `e` of the guessed beginning, and how they answer to its level (`u`) and slope (`v`).
#[derive(Default)]
struct Sums {
    ee: Lanes,
    eu: Lanes,
    ev: Lanes,
    uu: Lanes,
    uv: Lanes,
    vv: Lanes,
}

impl Path<'_> {
    /// The parameters of a set that this form uses: level's, slope's, damping.
    fn used(&self, set: [f64; 3]) -> [f64; 3] {
        match self.trend {
            Trend::Flat => [set[0], 0.0, 0.0],
            Trend::Straight => [set[0], set[1], 1.0],
            Trend::Damped => set,
        }
    }

    /// Minus twice the log-likelihood of each set, apart from a constant, the beginning chosen best.
    fn costs(&self, sets: &Sets) -> Lanes {
        let sets = sets.map(|set| self.used(set));
        let sums = if self.relative { self.respond::<true>(&sets) } else { self.respond::<false>(&sets) };
        let n = self.y.len() as f64;
        let (level, slope) = self.shift(&sums);
        if self.relative {
            let (squares, logs) = self.measure(&sets, level, slope);
            return std::array::from_fn(|k| n * squares[k].max(f64::MIN_POSITIVE).ln() + 2.0 * logs[k]);
        }
        std::array::from_fn(|k| {
            let rest = sums.ee[k] - level[k] * sums.eu[k] - slope[k] * sums.ev[k];
            n * rest.max(1e-12 * sums.ee[k]).max(f64::MIN_POSITIVE).ln()
        })
    }

    /// By how much level and slope of the guessed beginning are off, by least squares.
    fn shift(&self, s: &Sums) -> (Lanes, Lanes) {
        let (mut level, mut slope) = ([0.0; LANES], [0.0; LANES]);
        for k in 0..LANES {
            let det = s.uu[k] * s.vv[k] - s.uv[k] * s.uv[k];
            if self.trend != Trend::Flat && det > 1e-9 * s.uu[k] * s.vv[k] {
                level[k] = (s.eu[k] * s.vv[k] - s.ev[k] * s.uv[k]) / det;
                slope[k] = (s.ev[k] * s.uu[k] - s.eu[k] * s.uv[k]) / det;
            } else if s.uu[k] > 0.0 {
                level[k] = s.eu[k] / s.uu[k];
            }
        }
        (level, slope)
    }

    fn respond<const RELATIVE: bool>(&self, sets: &Sets) -> Sums {
        let [alpha, beta, phi] = [0, 1, 2].map(|p| -> Lanes { std::array::from_fn(|k| sets[k][p]) });
        let mut sums = Sums::default();
        let (mut l, mut b) = ([self.guess.0; LANES], [self.guess.1; LANES]);
        let (mut ul, mut ub) = ([1.0; LANES], [0.0; LANES]);
        let (mut vl, mut vb) = ([0.0; LANES], [if self.trend == Trend::Flat { 0.0 } else { 1.0 }; LANES]);
        let mut matters = true;
        for block in self.y.chunks(BLOCK) {
            for y in block {
                for k in 0..LANES {
                    let damped = phi[k] * b[k];
                    let f = l[k] + damped;
                    let e = y - f;
                    let w = if RELATIVE { 1.0 / (f * f) } else { 1.0 };
                    sums.ee[k] += w * e * e;
                    l[k] = f + alpha[k] * e;
                    b[k] = damped + beta[k] * e;
                    if matters {
                        let (du, dv) = (phi[k] * ub[k], phi[k] * vb[k]);
                        let (u, v) = (ul[k] + du, vl[k] + dv);
                        sums.eu[k] += w * e * u;
                        sums.ev[k] += w * e * v;
                        sums.uu[k] += w * u * u;
                        sums.uv[k] += w * u * v;
                        sums.vv[k] += w * v * v;
                        ul[k] = u - alpha[k] * u;
                        ub[k] = du - beta[k] * u;
                        vl[k] = v - alpha[k] * v;
                        vb[k] = dv - beta[k] * v;
                    }
                }
            }
            // What is forgotten is left out, before its numbers become too small to be fast.
            for row in [&mut ul, &mut ub, &mut vl, &mut vb] {
                for x in row.iter_mut().filter(|x| x.abs() < FORGOTTEN) {
                    *x = 0.0;
                }
            }
            matters = [ul, ub, vl, vb].iter().flatten().any(|x| *x != 0.0);
        }
        sums
    }

    /// Squares of the relative errors, and logarithms of what was expected, from a shifted beginning.
    fn measure(&self, sets: &Sets, level: Lanes, slope: Lanes) -> (Lanes, Lanes) {
        let (mut squares, mut logs) = ([0.0; LANES], [0.0; LANES]);
        let mut l: Lanes = std::array::from_fn(|k| self.guess.0 + level[k]);
        let mut b: Lanes = std::array::from_fn(|k| self.guess.1 + slope[k]);
        for block in self.y.chunks(BLOCK) {
            // One logarithm for a block: the product of values about one stays in range.
            let mut product = [1.0; LANES];
            for y in block {
                for k in 0..LANES {
                    let [alpha, beta, phi] = sets[k];
                    let damped = phi * b[k];
                    let f = l[k] + damped;
                    let e = y - f;
                    squares[k] += (e / f) * (e / f);
                    product[k] *= f.abs();
                    l[k] = f + alpha * e;
                    b[k] = damped + beta * e;
                }
            }
            for k in 0..LANES {
                logs[k] += product[k].ln();
            }
        }
        (squares, logs)
    }

    /// Level and slope after the last point, and the sum of the squared errors.
    fn end(&self, set: [f64; 3]) -> (f64, f64, f64) {
        let set = self.used(set);
        let sums =
            if self.relative { self.respond::<true>(&[set; LANES]) } else { self.respond::<false>(&[set; LANES]) };
        let (level, slope) = self.shift(&sums);
        let (mut l, mut b, mut squares) = (self.guess.0 + level[0], self.guess.1 + slope[0], 0.0);
        for y in self.y {
            let damped = set[2] * b;
            let f = l + damped;
            let e = y - f;
            let error = if self.relative { e / f } else { e };
            squares += error * error;
            (l, b) = (f + set[0] * e, damped + set[1] * e);
        }
        (l, b, squares)
    }
}

/// The simplex method of Nelder and Mead; reflection, expansion and both contractions are tried in one pass.
fn descend(path: &Path<'_>, dimensions: usize, begin: [f64; 3], width: [f64; 3]) -> ([f64; 3], f64) {
    let inside = |set: [f64; 3]| -> [f64; 3] { std::array::from_fn(|p| set[p].clamp(LOW[p], HIGH[p])) };
    let corner = |p: Option<usize>| {
        let mut set = inside(begin);
        if let Some(p) = p.filter(|p| *p < dimensions) {
            // Away from the bound that it would be stopped at.
            let moved = set[p] + width[p];
            set[p] = if (LOW[p]..=HIGH[p]).contains(&moved) { moved } else { set[p] - width[p] };
        }
        inside(set)
    };
    let first: Sets = [corner(None), corner(Some(0)), corner(Some(1)), corner(Some(2))];
    let costs = path.costs(&first);
    let mut simplex: Vec<([f64; 3], f64)> = first.into_iter().zip(costs).take(dimensions + 1).collect();
    for _ in 0..PASSES_MAX {
        simplex.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (best, worst) = (simplex[0], simplex[dimensions]);
        if worst.1 - best.1 < AGREED {
            break;
        }
        let middle: [f64; 3] = std::array::from_fn(|p| {
            simplex[..dimensions].iter().map(|corner| corner.0[p]).sum::<f64>() / dimensions as f64
        });
        let along = |step: f64| inside(std::array::from_fn(|p| middle[p] + step * (middle[p] - worst.0[p])));
        let tried: Sets = [along(1.0), along(2.0), along(0.5), along(-0.5)];
        let costs = path.costs(&tried);
        let better = (0..LANES).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).unwrap_or(0);
        if costs[better] < worst.1 {
            simplex[dimensions] = (tried[better], costs[better]);
            continue;
        }
        let shrunk: Sets = std::array::from_fn(|i| {
            let from = simplex.get(i + 1).map_or(best.0, |corner| corner.0);
            std::array::from_fn(|p| (best.0[p] + from[p]) / 2.0)
        });
        let costs = path.costs(&shrunk);
        for (corner, moved) in simplex[1..].iter_mut().zip(shrunk.into_iter().zip(costs)) {
            *corner = moved;
        }
    }
    simplex.sort_by(|a, b| a.1.total_cmp(&b.1));
    simplex[0]
}

impl Fit {
    /// Mean and standard deviation of the next points.
    #[must_use]
    pub fn predict(&self, ahead: usize) -> (Vec<f64>, Vec<f64>) {
        let [alpha, beta, phi] = self.set;
        let (mut mean, mut spread) = (Vec::with_capacity(ahead), Vec::with_capacity(ahead));
        // How much of an error is left in the level so many points later.
        let mut left: Vec<f64> = Vec::with_capacity(ahead);
        let mut second = Vec::with_capacity(ahead);
        let (mut reach, mut power, mut sum) = (0.0, 1.0, 0.0);
        for _ in 0..ahead {
            match self.form.trend {
                Trend::Flat => left.push(alpha),
                Trend::Straight => {
                    reach += 1.0;
                    left.push(alpha + beta * reach);
                }
                Trend::Damped => {
                    power *= phi;
                    reach += power;
                    left.push(alpha + beta * reach);
                }
            }
            let expected = self.level + reach * self.slope;
            let variance = if self.form.relative {
                let later: f64 = second.iter().rev().zip(&left).map(|(m, c): (&f64, &f64)| c * c * m).sum();
                let moment = expected * expected + self.variance * later;
                second.push(moment);
                (1.0 + self.variance) * moment - expected * expected
            } else {
                let variance = self.variance * (1.0 + sum);
                sum += left.last().map_or(0.0, |c| c * c);
                variance
            };
            mean.push(expected);
            spread.push(variance.max(0.0).sqrt());
        }
        (mean, spread)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use augurs::ets::AutoETS;
    use augurs::prelude::{Fit as _, Predict as _};

    use super::*;

    /// Levels, walks and slopes between one and two, as a fit is handed them.
    fn series(seed: u64, points: usize) -> Vec<f64> {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut unit = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (slope, step, noise) = (unit() - 0.3, unit() * unit(), 0.02 + unit());
        let mut walk = 0.0;
        let values: Vec<f64> = (0..points)
            .map(|i| {
                walk += step * (unit() - 0.5);
                20.0 * slope * i as f64 / points as f64 + walk + noise * (unit() - 0.5)
            })
            .collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        values.iter().map(|v| (v - low) / (high - low) + 1.0).collect()
    }

    #[test]
    fn search_finds_what_the_library_finds_or_better() {
        let (mut same, mut off) = (0, 0.0);
        let count = 24;
        for seed in 0..count {
            let y = series(seed, 336);
            let theirs = AutoETS::non_seasonal().fit(&y).unwrap();
            let ours = search(&y).unwrap();
            let model = theirs.model();
            // The library's simplex may leave the bounds that both set.
            assert!(ours.aicc <= model.aicc() + 4.0, "seed {seed}: {} beside {}", ours.aicc, model.aicc());
            let name = model.model_type().to_string();
            let trend = match (ours.form.trend, model.damped()) {
                (Trend::Flat, _) => name.contains("NN"),
                (Trend::Straight, damped) => name.contains("AN") && !damped,
                (Trend::Damped, damped) => name.contains("AN") && damped,
            };
            same += u32::from(trend && name.starts_with('M') == ours.form.relative);
            let (mean, _) = ours.predict(24);
            let point = theirs.predict(24, None).unwrap().point;
            off += mean.iter().zip(&point).map(|(a, b)| 2.0 * (a - b).abs() / (a + b)).sum::<f64>() / 24.0;
        }
        let off = off / count as f64;
        assert!(same * 10 >= count as u32 * 8, "the same form in {same} of {count}");
        assert!(off < 0.01, "forecasts differ by {off}");
    }

    #[test]
    fn search_near_the_last_form_finds_the_same_again() {
        for seed in 0..24 {
            let y = series(seed, 336);
            let first = search(&y).unwrap();
            let again = search_near(&y, &first.form).unwrap();
            assert!((again.aicc - first.aicc).abs() < 0.1, "seed {seed}: {} then {}", first.aicc, again.aicc);
        }
    }

    #[test]
    fn straight_lines_and_short_series_are_no_trouble() {
        let line: Vec<f64> = (0..60).map(|i| 1.0 + f64::from(i) / 60.0).collect();
        let (mean, spread) = search(&line).unwrap().predict(12);
        assert!((mean[11] - (1.0 + 71.0 / 60.0)).abs() < 0.01, "{mean:?}");
        assert!(spread.iter().all(|s| s.is_finite() && *s >= 0.0));
        assert!(search(&[1.0, 2.0, 1.0]).is_none());
        assert!(search(&[1.5; 40]).is_none_or(|fit| fit.predict(3).0.iter().all(|v| (v - 1.5).abs() < 1e-6)));
    }

    #[test]
    fn spread_grows_with_distance() {
        let (_, spread) = search(&series(3, 336)).unwrap().predict(30);
        assert!(spread.windows(2).all(|pair| pair[0] <= pair[1]), "{spread:?}");
    }
}
