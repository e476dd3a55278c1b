//! Times and lengths as people say them, in the site's zone: a crossing is a range with round ends, never one second.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::model::channel::Language;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// The evening begins.
const EVENING_HOUR: i8 = 18;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Says times in one language and zone, seen from one moment.
pub(super) struct Clock<'a> {
    pub(super) zone: &'a TimeZone,
    pub(super) language: Language,
    pub(super) now_ms: i64,
}

impl Clock<'_> {
    /// `今晚 21:10–23:40`, `明天 02:10–05:00`, `今晚 23:10–明天 02:40`. Always a range, and never one that begins in
    /// the past: what may be any moment begins this minute.
    pub(super) fn range(&self, earliest_ms: i64, latest_ms: i64) -> String {
        let this_minute_ms = self.now_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
        let earliest_ms = earliest_ms.max(this_minute_ms);
        let latest_ms = latest_ms.max(earliest_ms);
        let step_ms = step_ms(latest_ms - earliest_ms, earliest_ms - self.now_ms);
        let first_ms = (earliest_ms.div_euclid(step_ms) * step_ms).max(this_minute_ms);
        let last_ms = latest_ms.saturating_add(step_ms - 1).div_euclid(step_ms) * step_ms;
        let last_ms = if last_ms > first_ms { last_ms } else { first_ms.saturating_add(step_ms) };
        let (first_day, first) = self.parts(first_ms);
        let (last_day, last) = self.parts(last_ms);
        let dash = match self.language {
            Language::Chinese => "–",
            Language::English if first_day == last_day => "–",
            Language::English => " – ",
        };
        let head = join(&first_day, &first);
        if first_day == last_day {
            format!("{head}{dash}{last}")
        } else {
            format!("{head}{dash}{}", join(&last_day, &last))
        }
    }

    /// `今天 14:05`, `11月24日 21:00`.
    pub(super) fn moment(&self, at_ms: i64) -> String {
        let (day, time) = self.parts(at_ms);
        join(&day, &time)
    }

    /// `21:05:07`, for lines of a log; with the day when it is another.
    pub(super) fn second(&self, at_ms: i64) -> String {
        let time = self.format(at_ms, "%H:%M:%S");
        match (self.date(at_ms), self.date(self.now_ms)) {
            (Some(date), Some(today)) if date != today => {
                format!("{:02}-{:02} {time}", date.month(), date.day())
            }
            _ => time,
        }
    }

    /// `45 秒`, `12 分钟`, `3 小时 40 分钟`, `2 天`.
    pub(super) fn length(&self, length_ms: i64) -> String {
        let length_ms = length_ms.max(0);
        let chinese = self.language == Language::Chinese;
        let (second, minute, hour, day) =
            if chinese { ("秒", "分钟", "小时", "天") } else { ("s", "min", "h", "d") };
        let two = |high: i64, high_unit: &str, low: i64, low_unit: &str| {
            if low == 0 { format!("{high} {high_unit}") } else { format!("{high} {high_unit} {low} {low_unit}") }
        };
        if length_ms < MINUTE_MS {
            format!("{} {second}", length_ms / 1000)
        } else if length_ms < HOUR_MS {
            format!("{} {minute}", length_ms / MINUTE_MS)
        } else if length_ms < DAY_MS {
            two(length_ms / HOUR_MS, hour, length_ms % HOUR_MS / MINUTE_MS, minute)
        } else {
            two(length_ms / DAY_MS, day, length_ms % DAY_MS / HOUR_MS, hour)
        }
    }

    fn parts(&self, at_ms: i64) -> (String, String) {
        (self.day(at_ms), self.format(at_ms, "%H:%M"))
    }

    fn day(&self, at_ms: i64) -> String {
        let (Some(date), Some(today)) = (self.date(at_ms), self.date(self.now_ms)) else { return String::new() };
        let evening = self.format(at_ms, "%H").parse().is_ok_and(|hour: i8| hour >= EVENING_HOUR);
        let ahead = at_ms > self.now_ms;
        let chinese = self.language == Language::Chinese;
        let word = match (date, evening && ahead) {
            (date, true) if date == today => {
                if chinese {
                    "今晚"
                } else {
                    "tonight"
                }
            }
            (date, _) if date == today => {
                if chinese {
                    "今天"
                } else {
                    "today"
                }
            }
            (date, _) if today.tomorrow().is_ok_and(|next| next == date) => {
                if chinese {
                    "明天"
                } else {
                    "tomorrow"
                }
            }
            (date, _) if today.yesterday().is_ok_and(|last| last == date) => {
                if chinese {
                    "昨天"
                } else {
                    "yesterday"
                }
            }
            _ => return named_day(date, self.language),
        };
        word.to_owned()
    }

    fn date(&self, at_ms: i64) -> Option<Date> {
        Some(Timestamp::from_millisecond(at_ms).ok()?.to_zoned(self.zone.clone()).date())
    }

    fn format(&self, at_ms: i64, pattern: &str) -> String {
        Timestamp::from_millisecond(at_ms)
            .map(|at| at.to_zoned(self.zone.clone()).strftime(pattern).to_string())
            .unwrap_or_default()
    }
}

fn named_day(date: Date, language: Language) -> String {
    match language {
        Language::Chinese => format!("{}月{}日", date.month(), date.day()),
        Language::English => {
            let month = MONTHS.get(usize::try_from(date.month() - 1).unwrap_or(0)).unwrap_or(&"");
            format!("{} {month}", date.day())
        }
    }
}

fn join(day: &str, time: &str) -> String {
    if day.is_empty() { time.to_owned() } else { format!("{day} {time}") }
}

/// How round the ends are: a range of a day, or one far ahead, needs no minutes; one of ten minutes does.
fn step_ms(width_ms: i64, ahead_ms: i64) -> i64 {
    let steps = [
        (20 * MINUTE_MS, MINUTE_MS),
        (HOUR_MS, 5 * MINUTE_MS),
        (3 * HOUR_MS, 10 * MINUTE_MS),
        (DAY_MS / 2, 30 * MINUTE_MS),
    ];
    let size_ms = width_ms.max(ahead_ms / 4);
    steps.iter().find(|(below_ms, _)| size_ms < *below_ms).map_or(HOUR_MS, |(_, step_ms)| *step_ms)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn range(language: Language, now: &str, first: &str, last: &str) -> String {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        Clock { zone: &zone, language, now_ms: at(now) }.range(at(first), at(last))
    }

    #[test]
    fn a_range_is_said_as_people_say_it() {
        use Language::{Chinese, English};
        let cases = [
            (
                Chinese,
                "2026-11-22T14:00:00+08:00",
                "2026-11-22T21:12:33+08:00",
                "2026-11-22T23:37:01+08:00",
                "今晚 21:10–23:40",
            ),
            (
                English,
                "2026-11-22T14:00:00+08:00",
                "2026-11-22T21:12:33+08:00",
                "2026-11-22T23:37:01+08:00",
                "tonight 21:10–23:40",
            ),
            (
                Chinese,
                "2026-11-22T18:00:00+08:00",
                "2026-11-22T21:12:33+08:00",
                "2026-11-22T23:37:01+08:00",
                "今晚 21:10–23:40",
            ),
            (
                Chinese,
                "2026-11-22T14:00:00+08:00",
                "2026-11-22T14:21:00+08:00",
                "2026-11-22T14:48:59+08:00",
                "今天 14:20–14:50",
            ),
            (
                Chinese,
                "2026-11-22T22:00:00+08:00",
                "2026-11-22T23:11:00+08:00",
                "2026-11-23T01:40:00+08:00",
                "今晚 23:10–明天 01:40",
            ),
            (
                English,
                "2026-11-22T22:00:00+08:00",
                "2026-11-22T23:11:00+08:00",
                "2026-11-23T01:40:00+08:00",
                "tonight 23:10 – tomorrow 01:40",
            ),
            (
                Chinese,
                "2026-11-22T22:00:00+08:00",
                "2026-11-24T02:10:00+08:00",
                "2026-11-25T03:20:00+08:00",
                "11月24日 02:00–11月25日 04:00",
            ),
            (
                English,
                "2026-11-22T22:00:00+08:00",
                "2026-11-24T02:10:00+08:00",
                "2026-11-24T03:20:00+08:00",
                "24 Nov 02:00–03:30",
            ),
            (
                Chinese,
                "2026-11-22T14:03:00+08:00",
                "2026-11-22T14:04:00+08:00",
                "2026-11-22T14:21:00+08:00",
                "今天 14:04–14:21",
            ),
        ];
        for (language, now, first, last, said) in cases {
            assert_eq!(range(language, now, first, last), said);
        }
    }

    #[test]
    fn what_may_be_any_moment_begins_this_minute() {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        let now_ms = at("2026-11-22T14:03:20+08:00");
        let clock = Clock { zone: &zone, language: Language::Chinese, now_ms };
        assert_eq!(clock.range(now_ms - HOUR_MS, now_ms + 4 * MINUTE_MS), "今天 14:03–14:08");
        assert_eq!(clock.range(now_ms - HOUR_MS, now_ms - MINUTE_MS), "今天 14:03–14:04");
        assert_eq!(clock.range(now_ms + 9 * MINUTE_MS, now_ms + 50 * MINUTE_MS), "今天 14:10–14:55");
    }

    #[test]
    fn the_zone_decides_what_is_tomorrow() {
        let (now, first, last) = ("2026-11-22T15:00:00Z", "2026-11-22T17:10:00Z", "2026-11-22T17:40:00Z");
        assert_eq!(range(Language::Chinese, now, first, last), "明天 01:10–01:40");
        let clock = Clock { zone: &TimeZone::UTC, language: Language::Chinese, now_ms: at(now) };
        assert_eq!(clock.range(at(first), at(last)), "今天 17:10–17:40");
    }

    #[test]
    fn lengths_are_short() {
        let clock = Clock { zone: &TimeZone::UTC, language: Language::Chinese, now_ms: 0 };
        let said = |ms| clock.length(ms);
        assert_eq!(said(45_000), "45 秒");
        assert_eq!(said(12 * MINUTE_MS + 5), "12 分钟");
        assert_eq!(said(3 * HOUR_MS + 40 * MINUTE_MS), "3 小时 40 分钟");
        assert_eq!(said(2 * DAY_MS), "2 天");
        assert_eq!(said(-5), "0 秒");
    }

    #[test]
    fn absurd_times_do_not_panic() {
        let clock = Clock { zone: &TimeZone::UTC, language: Language::English, now_ms: 0 };
        let _ = (clock.moment(i64::MAX), clock.second(i64::MIN), clock.range(i64::MAX / 2, i64::MAX / 2 + 5));
    }
}
