//! What is said, in Chinese and English: one plain title that a tired operator understands, the facts under it, the
//! lines that matched, a link. All parts are plain text here; each channel makes them harmless for its own markup.

use forewarn_common::id::EntityId;
use forewarn_common::keyword::Severity;
use forewarn_common::metric::{Unit, unit_of_name};
use jiff::tz::TimeZone;

use super::delivery::Letter;
use super::text::clean;
use super::time::Clock;
use crate::model::channel::Language;
use crate::model::forecast::{Because, Carry, Expert, Forecast, State};
use crate::model::incident::{Ended, Incident, IncidentState, Transition};
use crate::model::rule::{Condition, Rule};

/// Names of hosts, containers, mount points.
const NAME_CHARS_MAX: usize = 64;
/// A matching line; the console has all of it.
const LINE_CHARS_MAX: usize = 400;
/// The head of a matching line in a title: what a list of conversations shows.
const TITLE_LINE_CHARS_MAX: usize = 80;
/// Matching lines in one message.
const LINES_MAX: usize = 3;
/// Reasons of a forecast in one message.
const REASONS_MAX: usize = 2;
/// Incidents named in one digest; the rest is counted.
pub(super) const DIGEST_LINES_MAX: usize = 20;

/// What messages need to know of the site.
#[derive(Debug, Clone)]
pub struct Site {
    /// The site's time zone.
    pub zone: TimeZone,
    /// Address of the console as people reach it, without a path at its end; without one messages carry no link.
    pub public_url: Option<String>,
}

/// How a message looks where a channel has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Info,
    Warning,
    Alarm,
    Good,
}

/// A message before it is put into a channel's format. Plain, untrusted text throughout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) tone: Tone,
    pub(super) language: Language,
    pub(super) title: String,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) lines: Vec<String>,
    pub(super) link: Option<String>,
    pub(super) id: String,
}

impl Message {
    /// Label of the link.
    pub(super) fn link_label(&self) -> &'static str {
        say(self.language, "在控制台查看", "Open in the console")
    }

    /// Label of the id. Has the product's name, so that "先见" can serve as the keyword that a robot may demand.
    pub(super) fn id_label(&self) -> &'static str {
        say(self.language, "先见编号", "Forewarn id")
    }

    /// What stands where something was left out for want of room.
    pub(super) fn cut_note(&self) -> &'static str {
        say(self.language, "（内容过长，已截断）", "(cut: too long)")
    }

    /// What joins a label and its value.
    pub(super) fn colon(&self) -> &'static str {
        say(self.language, "：", ": ")
    }
}

pub(super) fn say(language: Language, chinese: &'static str, english: &'static str) -> &'static str {
    match language {
        Language::Chinese => chinese,
        Language::English => english,
    }
}

/// The message of one delivery.
pub(super) fn compose(letter: &Letter, language: Language, site: &Site, now_ms: i64) -> Message {
    let teller = Teller { letter, clock: Clock { zone: &site.zone, language, now_ms } };
    Message {
        tone: tone(letter.delivery.transition),
        language,
        title: teller.title(),
        facts: teller.facts(),
        lines: teller.lines(),
        link: link(site, &letter.incident.id),
        id: letter.delivery.id.clone(),
    }
}

/// One message for several deliveries of a channel, when its limit leaves no room for one each.
pub(super) fn compose_digest(letters: &[&Letter], language: Language, site: &Site, now_ms: i64) -> Message {
    let count = |transition| letters.iter().filter(|letter| letter.delivery.transition == transition).count();
    let (warned, alarmed, resolved) =
        (count(Transition::Warned), count(Transition::Alarmed), count(Transition::Resolved));
    let all = letters.len();
    let title = match language {
        Language::Chinese => format!("【汇总】{all} 条：告警 {alarmed}，预警 {warned}，恢复 {resolved}"),
        Language::English => {
            format!("Digest of {all} messages: {alarmed} alarms, {warned} warnings, {resolved} resolved")
        }
    };
    let clock = || Clock { zone: &site.zone, language, now_ms };
    // What needs hands first; the order of one incident's own messages stays.
    let mut order: Vec<&&Letter> = letters.iter().collect();
    order.sort_by_key(|letter| letter.incident.state == IncidentState::Resolved);
    let mut lines: Vec<String> = order
        .iter()
        .take(DIGEST_LINES_MAX)
        .map(|letter| {
            let title = Teller { letter, clock: clock() }.title();
            format!("{} {title}", clock().second(letter.delivery.created_ms))
        })
        .collect();
    if all > DIGEST_LINES_MAX {
        let rest = all - DIGEST_LINES_MAX;
        lines.push(match language {
            Language::Chinese => format!("……另有 {rest} 条，见控制台"),
            Language::English => format!("… and {rest} more, see the console"),
        });
    }
    let worst = if alarmed > 0 {
        Tone::Alarm
    } else if warned > 0 {
        Tone::Warning
    } else {
        Tone::Good
    };
    Message {
        tone: worst,
        language,
        title,
        facts: Vec::new(),
        lines,
        link: site.public_url.as_ref().map(|url| format!("{}/incidents", url.trim_end_matches('/'))),
        id: letters.first().map(|letter| letter.delivery.id.clone()).unwrap_or_default(),
    }
}

fn tone(transition: Transition) -> Tone {
    match transition {
        Transition::Warned => Tone::Warning,
        Transition::Alarmed => Tone::Alarm,
        Transition::Resolved => Tone::Good,
    }
}

fn link(site: &Site, incident: &str) -> Option<String> {
    let is_id = !incident.is_empty() && incident.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let url = site.public_url.as_ref().filter(|_| is_id)?;
    Some(format!("{}/incidents/{incident}", url.trim_end_matches('/')))
}

/// Words for one delivery.
struct Teller<'a> {
    letter: &'a Letter,
    clock: Clock<'a>,
}

impl Teller<'_> {
    fn is_chinese(&self) -> bool {
        self.clock.language == Language::Chinese
    }

    fn say(&self, chinese: &'static str, english: &'static str) -> &'static str {
        say(self.clock.language, chinese, english)
    }

    fn incident(&self) -> &Incident {
        &self.letter.incident
    }

    fn rule(&self) -> &Rule {
        &self.letter.rule
    }

    fn is_host_itself(&self) -> bool {
        let subject = &self.incident().subject;
        subject.entity == EntityId::of_host(subject.host)
    }

    /// `plant-3 /data`, `plant-3 容器 mysql`.
    fn place(&self) -> String {
        let evidence = &self.incident().evidence;
        let host = name(&evidence.host_name);
        let mut place = if self.is_host_itself() {
            host
        } else {
            let entity = name(&evidence.entity_name);
            format!("{host} {} {entity}", self.say("容器", "container"))
        };
        if matches!(self.rule().condition, Condition::Threshold { .. }) && !self.incident().subject.instance.is_empty()
        {
            place.push(' ');
            place.push_str(&name(&self.incident().subject.instance));
        }
        place
    }

    fn title(&self) -> String {
        let mark = match (self.letter.delivery.transition, self.incident().evidence.ended) {
            (Transition::Warned, _) => self.say("【预警】", "Warning: "),
            (Transition::Alarmed, _) => self.say("【告警】", "Alarm: "),
            (Transition::Resolved, Some(Ended::Withdrawn)) => self.say("【预警解除】", "Withdrawn: "),
            (Transition::Resolved, Some(Ended::Gone | Ended::Removed)) => self.say("【结束】", "Ended: "),
            (Transition::Resolved, _) => self.say("【恢复】", "Resolved: "),
        };
        let what = match self.letter.delivery.transition {
            Transition::Warned => self.warned(),
            Transition::Alarmed => self.alarmed(),
            Transition::Resolved => self.resolved(),
        };
        format!("{mark}{} {what}", self.place())
    }

    fn warned(&self) -> String {
        let threshold = self.threshold();
        let metric = self.metric_unless_plain();
        match self.crossing() {
            Some(range) if self.is_chinese() => format!("{metric}预计{range} 达到 {threshold}"),
            Some(range) => format!("{metric}expected to reach {threshold} {range}"),
            None if self.is_chinese() => format!("{metric}预计将达到 {threshold}"),
            None => format!("{metric}expected to reach {threshold}"),
        }
    }

    fn alarmed(&self) -> String {
        let evidence = &self.incident().evidence;
        match &self.rule().condition {
            Condition::Threshold { .. } => {
                let threshold = self.threshold();
                let metric = self.metric_unless_plain();
                // Told late, the value may be below again: then only the crossing is said.
                let current = evidence.value.filter(|value| evidence.threshold.is_some_and(|limit| *value >= limit));
                match (current.map(|value| self.value(value)), self.is_chinese()) {
                    (Some(value), true) => format!("{metric}已达到 {threshold}（当前 {value}）"),
                    (Some(value), false) => format!("{metric}has reached {threshold} (now {value})"),
                    (None, true) => format!("{metric}已达到 {threshold}"),
                    (None, false) => format!("{metric}has reached {threshold}"),
                }
            }
            Condition::Keyword { .. } => {
                let keyword = self.keyword();
                let line = evidence.lines.first().map(|kept| clean(&kept.line, TITLE_LINE_CHARS_MAX));
                match (line.filter(|line| !line.is_empty()), self.is_chinese()) {
                    (Some(line), true) => format!("日志出现{keyword}：{line}"),
                    (Some(line), false) => format!("log shows {keyword}: {line}"),
                    (None, true) => format!("日志出现{keyword}"),
                    (None, false) => format!("log shows {keyword}"),
                }
            }
            Condition::HostSilent { .. } => {
                let last = self.clock.moment(evidence.last_ms);
                if self.is_chinese() {
                    format!("已失联（最后一次上报：{last}）")
                } else {
                    format!("is silent (last heard of {last})")
                }
            }
            Condition::ContainerDied => match (self.exit_code(), self.is_chinese()) {
                (Some(code), true) => format!("异常退出（退出码 {code}）"),
                (Some(code), false) => format!("died (exit code {code})"),
                (None, true) => "异常退出".to_owned(),
                (None, false) => "died".to_owned(),
            },
            Condition::ContainerOom => {
                self.say("内存不足，进程被内核终止（OOM）", "ran out of memory, a process was killed (OOM)").to_owned()
            }
            Condition::RestartLoop { within_ms, .. } => {
                let (hits, within) = (evidence.hits, self.clock.length(*within_ms));
                if self.is_chinese() {
                    format!("反复重启：{within}内 {hits} 次")
                } else {
                    format!("keeps restarting: {hits} times within {within}")
                }
            }
            Condition::Unhealthy => self.say("健康检查失败", "fails its health check").to_owned(),
        }
    }

    fn resolved(&self) -> String {
        let evidence = &self.incident().evidence;
        let threshold = self.threshold();
        match evidence.ended {
            Some(Ended::Cleared) => {
                let metric = self.metric_unless_plain();
                let value = evidence.value.map(|value| self.value(value)).unwrap_or_default();
                if self.is_chinese() {
                    format!("{metric}已回落到 {value}（阈值 {threshold}）")
                } else {
                    format!("{metric}is down to {value} (threshold {threshold})")
                }
            }
            Some(Ended::Withdrawn) => {
                let metric = self.metric_unless_plain();
                if self.is_chinese() {
                    format!("{metric}预计不再达到 {threshold}")
                } else {
                    format!("{metric}no longer expected to reach {threshold}")
                }
            }
            Some(Ended::Quiet) if matches!(self.rule().condition, Condition::Keyword { .. }) => {
                let keyword = self.keyword();
                if self.is_chinese() {
                    format!("日志不再出现{keyword}")
                } else {
                    format!("log no longer shows {keyword}")
                }
            }
            Some(Ended::Quiet) => self.say("未再发生", "has not happened again").to_owned(),
            Some(Ended::Running) => self.say("已恢复运行", "is running again").to_owned(),
            Some(Ended::Healthy) => self.say("健康检查恢复正常", "passes its health check again").to_owned(),
            Some(Ended::Removed) => self.say("容器已被停止或删除", "was stopped or removed").to_owned(),
            Some(Ended::HostBack) => self.say("已恢复上报", "is heard of again").to_owned(),
            Some(Ended::Gone) => self.say("不再有数据（文件系统或容器已不存在）", "has no more data (gone)").to_owned(),
            Some(Ended::RuleOff) | None => self.say("已结束", "is over").to_owned(),
        }
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let incident = self.incident();
        let evidence = &incident.evidence;
        let transition = self.letter.delivery.transition;
        let mut facts = vec![(self.say("主机", "Host"), name(&evidence.host_name))];
        if !self.is_host_itself() {
            facts.push((self.say("容器", "Container"), name(&evidence.entity_name)));
        }
        if !evidence.component.is_empty() {
            facts.push((self.say("组件", "Component"), name(&evidence.component)));
        }
        if let Condition::Threshold { metric, .. } = &self.rule().condition {
            if !incident.subject.instance.is_empty() {
                let label = if metric.starts_with("fs_") {
                    self.say("挂载点", "Mount point")
                } else {
                    self.say("实例", "Instance")
                };
                facts.push((label, name(&incident.subject.instance)));
            }
            let metric = metric_name(metric, self.clock.language);
            let value = evidence.value.map_or_else(|| "–".to_owned(), |value| self.value(value));
            let threshold = self.threshold();
            let level = if self.is_chinese() {
                format!("{metric} {value}（阈值 {threshold}）")
            } else {
                format!("{metric} {value} (threshold {threshold})")
            };
            let gone = evidence.ended == Some(Ended::Gone);
            facts.push((if gone { self.say("最后", "Last") } else { self.say("当前", "Now") }, level));
        }
        if transition == Transition::Warned {
            facts.extend(self.outlook());
        }
        if evidence.hits > 1 {
            let label = self.say("次数", "Times");
            facts.push((label, evidence.hits.to_string()));
        }
        facts.extend(self.since());
        facts.push((self.say("级别", "Severity"), severity(incident.severity, self.clock.language).to_owned()));
        facts.push((self.say("规则", "Rule"), self.rule_name()));
        facts
    }

    fn outlook(&self) -> Vec<(&'static str, String)> {
        let Some(forecast) = &self.incident().evidence.forecast else { return Vec::new() };
        let mut facts = Vec::new();
        if let (State::Warning { probability, .. }, Some(range)) = (forecast.state, self.crossing()) {
            let percent = (probability * 100.0).round().clamp(0.0, 99.0);
            facts.push((
                self.say("预计到达", "Expected"),
                if self.is_chinese() {
                    format!("{range}（概率 {percent}%）")
                } else {
                    format!("{range} (probability {percent}%)")
                },
            ));
        }
        let reasons = self.reasons(forecast);
        if !reasons.is_empty() {
            facts.push((self.say("依据", "Because"), reasons));
        }
        facts
    }

    fn since(&self) -> Option<(&'static str, String)> {
        let incident = self.incident();
        let evidence = &incident.evidence;
        let silent = matches!(self.rule().condition, Condition::HostSilent { .. });
        let started_ms = if silent { evidence.last_ms } else { evidence.over_since_ms.unwrap_or(incident.opened_ms) };
        match (self.letter.delivery.transition, incident.resolved_ms) {
            (Transition::Warned, _) => None,
            (Transition::Resolved, Some(resolved_ms)) => {
                Some((self.say("持续", "Lasted"), self.clock.length(resolved_ms - started_ms)))
            }
            _ => Some((self.say("开始于", "Since"), self.clock.moment(started_ms))),
        }
    }

    fn lines(&self) -> Vec<String> {
        if self.letter.delivery.transition == Transition::Resolved {
            return Vec::new();
        }
        let evidence = &self.incident().evidence;
        let matched = evidence
            .lines
            .iter()
            .take(LINES_MAX)
            .map(|kept| format!("{} {}", self.clock.second(kept.at_ms), clean(&kept.line, LINE_CHARS_MAX)));
        matched.collect()
    }

    fn crossing(&self) -> Option<String> {
        match self.incident().evidence.forecast.as_ref()?.state {
            State::Warning { earliest_ms, latest_ms, .. } => Some(self.clock.range(earliest_ms, latest_ms)),
            State::NoForecast { .. } | State::Stable | State::Breached => None,
        }
    }

    fn reasons(&self, forecast: &Forecast) -> String {
        let said: Vec<String> =
            forecast.reasons.iter().filter_map(|because| self.reason(because, forecast)).take(REASONS_MAX).collect();
        said.join(self.say("；", "; "))
    }

    fn reason(&self, because: &Because, forecast: &Forecast) -> Option<String> {
        let clock = &self.clock;
        // A line drawn on knows no end; of a share there is no more than all.
        let full = match self.unit() {
            Unit::Ratio => forecast.value.max(forecast.threshold).max(1.0),
            _ => f64::INFINITY,
        };
        let chinese = self.is_chinese();
        match *because {
            Because::Trend { window_ms, slope_per_hour, .. } => {
                let (window, slope) = (clock.length(window_ms), self.slope(slope_per_hour));
                Some(if chinese {
                    format!("近 {window}每小时变化 {slope}")
                } else {
                    format!("{slope} an hour over the last {window}")
                })
            }
            Because::Record { crossed_ratio, horizons } if horizons >= 1.0 => {
                let (percent, count) = ((crossed_ratio * 100.0).round(), horizons.floor());
                Some(if chinese {
                    format!("自身历史上 {count} 段相似时段中，{percent}% 会由此越过阈值")
                } else {
                    format!("from {percent}% of {count} comparable spans of its own past it would have crossed")
                })
            }
            Because::Sawtooth { period_ms, top } => {
                let (period, top) = (clock.length(period_ms), self.value(top.min(full)));
                Some(if chinese {
                    format!("约每 {period}自行回落一次，下次峰值估计 {top}")
                } else {
                    format!("falls back by itself about every {period}, next peak about {top}")
                })
            }
            Because::Reset { age_ms } => {
                let age = clock.length(age_ms);
                Some(if chinese {
                    format!("{age}前曾回落，只看此后的走势")
                } else {
                    format!("counted from its drop {age} ago")
                })
            }
            Because::Expert { expert, expects, .. } => {
                let (way, expects) = (self.expert(expert), self.value(expects.min(full)));
                Some(if chinese {
                    format!("{way}，预计升至 {expects}")
                } else {
                    format!("{way}, expected up to {expects}")
                })
            }
            Because::Decomposition { probability, .. } => {
                let percent = (probability * 100.0).round();
                Some(if chinese {
                    format!("周期模型给出的概率 {percent}%")
                } else {
                    format!("the seasonal model says {percent}%")
                })
            }
            Because::DecompositionWaits => {
                Some(self.say("周期模型待重新拟合", "the seasonal model waits to be fitted again").to_owned())
            }
            Because::Record { .. } => None,
        }
    }

    fn expert(&self, expert: Expert) -> String {
        match expert {
            Expert::Hold => self.say("保持当前水平", "it stays where it is").to_owned(),
            Expert::Trend { .. } => self.say("按近期直线趋势", "by its recent straight trend").to_owned(),
            Expert::LongTrend => self.say("按长期趋势", "by its long trend").to_owned(),
            Expert::Envelope { .. } => self.say("按峰值的走势", "by the drift of its peaks").to_owned(),
            Expert::Season { days, carry } => {
                let when = match (days, self.is_chinese()) {
                    (1, true) => "昨天".to_owned(),
                    (1, false) => "yesterday".to_owned(),
                    (7, true) => "一周前".to_owned(),
                    (7, false) => "a week ago".to_owned(),
                    (_, true) => format!("{days} 天前"),
                    (_, false) => format!("{days} days ago"),
                };
                let rise = carry != Carry::Level;
                match (self.is_chinese(), rise) {
                    (true, false) => format!("按{when}同一时段的水平"),
                    (true, true) => format!("按{when}同一时段的涨幅"),
                    (false, false) => format!("by the level of the same hours {when}"),
                    (false, true) => format!("by the rise of the same hours {when}"),
                }
            }
        }
    }

    fn exit_code(&self) -> Option<i32> {
        use forewarn_common::block::EventKind;
        let events = &self.incident().evidence.events;
        events.iter().find(|event| event.kind == EventKind::Die).map(|event| event.code)
    }

    fn keyword(&self) -> String {
        let rule = self.incident().evidence.keyword.as_deref().unwrap_or(&self.incident().subject.instance);
        keyword_name(rule, self.clock.language).map_or_else(|| name(rule), str::to_owned)
    }

    fn rule_name(&self) -> String {
        let rule = self.rule();
        if rule.name.is_empty() {
            rule_name(&rule.id, self.clock.language).map_or_else(|| name(&rule.id), str::to_owned)
        } else {
            name(&rule.name)
        }
    }

    fn unit(&self) -> Unit {
        match &self.rule().condition {
            Condition::Threshold { metric, .. } => unit_of_name(metric),
            _ => Unit::Count,
        }
    }

    fn value(&self, value: f64) -> String {
        number(value, self.unit())
    }

    fn slope(&self, slope: f64) -> String {
        let sign = if slope >= 0.0 { "+" } else { "-" };
        let points = match (self.unit(), self.is_chinese()) {
            (Unit::Ratio, true) => return format!("{sign}{} 个百分点", short(slope.abs() * 100.0, 2)),
            (Unit::Ratio, false) => return format!("{sign}{} points", short(slope.abs() * 100.0, 2)),
            _ => self.value(slope.abs()),
        };
        format!("{sign}{points}")
    }

    fn threshold(&self) -> String {
        match (&self.rule().condition, self.incident().evidence.threshold) {
            (_, Some(threshold)) => self.value(threshold),
            (Condition::Threshold { threshold, .. }, None) => self.value(*threshold),
            _ => String::new(),
        }
    }

    /// The metric's name, but not where the mount point says enough.
    fn metric_unless_plain(&self) -> String {
        let Condition::Threshold { metric, .. } = &self.rule().condition else { return String::new() };
        if metric == "fs_used_ratio" && !self.incident().subject.instance.is_empty() {
            return String::new();
        }
        let metric = metric_name(metric, self.clock.language);
        if self.is_chinese() { metric } else { format!("{metric} ") }
    }
}

fn name(text: &str) -> String {
    let name = clean(text, NAME_CHARS_MAX);
    if name.is_empty() { "?".to_owned() } else { name }
}

/// At most `decimals` decimal places, without trailing zeros.
fn short(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn number(value: f64, unit: Unit) -> String {
    match unit {
        // Rounded down: 89.97 % must not be told as the 90 % that it has not reached.
        Unit::Ratio => format!("{}%", short((value * 1000.0 + 1e-6).floor() / 10.0, 1)),
        Unit::Bytes => {
            let steps = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
            let (mut value, mut step) = (value, 0);
            while value.abs() >= 1024.0 && step + 1 < steps.len() {
                value /= 1024.0;
                step += 1;
            }
            format!("{} {}", short(value, 1), steps[step])
        }
        Unit::Milliseconds => format!("{} ms", short(value, 0)),
        Unit::Count => short(value, 2),
    }
}

fn severity(severity: Severity, language: Language) -> &'static str {
    match severity {
        Severity::Info => say(language, "提示", "info"),
        Severity::Warning => say(language, "警告", "warning"),
        Severity::Critical => say(language, "严重", "critical"),
    }
}

fn metric_name(metric: &str, language: Language) -> String {
    let said = match metric {
        "cpu_used_ratio" => say(language, "CPU 使用率", "CPU use"),
        "mem_used_ratio" => say(language, "内存使用率", "memory use"),
        "swap_used_ratio" => say(language, "交换区使用率", "swap use"),
        "fs_used_ratio" => say(language, "磁盘使用率", "disk use"),
        "fs_inode_used_ratio" => say(language, "inode 使用率", "inode use"),
        other => return clean(other, NAME_CHARS_MAX),
    };
    said.to_owned()
}

fn rule_name(id: &str, language: Language) -> Option<&'static str> {
    Some(match id {
        "disk" => say(language, "磁盘空间", "disk space"),
        "inodes" => say(language, "inode 数量", "inodes"),
        "memory" => say(language, "主机内存", "host memory"),
        "cpu" => say(language, "主机 CPU", "host CPU"),
        "container_memory" => say(language, "容器内存", "container memory"),
        "keyword" => say(language, "日志关键字", "log keywords"),
        "host_silent" => say(language, "主机失联", "host silent"),
        "container_died" => say(language, "容器异常退出", "container died"),
        "container_oom" => say(language, "容器内存溢出", "container out of memory"),
        "restart_loop" => say(language, "容器反复重启", "restart loop"),
        "unhealthy" => say(language, "健康检查", "health check"),
        _ => return None,
    })
}

fn keyword_name(rule: &str, language: Language) -> Option<&'static str> {
    Some(match rule {
        "out_of_memory" => say(language, "内存溢出", "out of memory"),
        "disk_full" => say(language, "磁盘写满", "disk full"),
        "file_handles" => say(language, "文件句柄耗尽", "too many open files"),
        "database_timeout" => say(language, "数据库连接异常", "database connection trouble"),
        "deadlock" => say(language, "死锁", "deadlock"),
        "crash" => say(language, "程序崩溃", "crash"),
        "connection" => say(language, "连接失败", "connection trouble"),
        "timeout" => say(language, "请求超时", "timeouts"),
        "read_only" => say(language, "文件系统只读或 I/O 错误", "read-only filesystem or I/O error"),
        "certificate" => say(language, "证书异常", "certificate trouble"),
        "replication" => say(language, "主从同步异常", "replication trouble"),
        _ => return None,
    })
}
