//! Follows container logs, counts lines and keyword hits, keeps a bounded sample of what hit.
//!
//! Content comes from files; what only the engine's API can give is handed in through [`Tailer::feed`]. Nothing
//! here knows an engine, a server or a clock.

mod follow;
mod frame;
mod glob;
mod group;
mod mask;
mod matcher;
pub(crate) mod probe;
mod wake;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use forewarn_common::block::{KeywordHit, LogSample};
use forewarn_common::id::EntityId;
use forewarn_common::keyword::{KeywordRule, Subject};
use forewarn_common::limit;
use serde::{Deserialize, Serialize};

use follow::{Begin, Follower, Position, Seen, Sink};
pub(crate) use frame::Format;
use frame::{Joiner, Record};
pub(crate) use glob::{find, identity};
pub(crate) use group::FirstLine;
use group::Group;
use mask::Masks;
use matcher::Applies;
pub(crate) use matcher::{Matcher, RuleError};
use wake::{Mark, Wake, Woken};

/// Bytes that one look takes from one file, and from all: a log storm must not hold up the sampler.
const SOURCE_BYTES_A_POLL: u64 = 4 << 20;
const BYTES_A_POLL: u64 = 16 << 20;
/// Sampled lines of one workload in one day: a sample shows what happens, it is no log store.
const SAMPLES_A_DAY_MAX: u32 = 200;
const DAY_MS: i64 = 86_400_000;
/// Read back from a hit for the lines before it.
const CONTEXT_BYTES: u64 = 64 << 10;
/// Between two looks at everything, watched or not: a notice may be lost on a filesystem that gives none.
const LOOK_ALL_MS: i64 = 30_000;
/// The look at everything joins one that happens this shortly before it is due.
const LOOK_ALL_EARLY_MS: i64 = 2_000;
/// A look that took more than this is followed by the next one sooner: what piles up has to be read again.
const BUSY_BYTES: u64 = 1 << 20;
/// How much sooner.
const BUSY_SHARE: i64 = 16;
/// Between two looks at a log that was renamed and not yet begun anew, and how many of them there are.
const TURN_MS: i64 = 20;
const TURN_LOOKS: u8 = 10;
/// Looks in vain at the log of a container that has ended before it is let go.
const LAST_LOOKS: u8 = 2;
/// A position of each of this many logs is kept.
const POSITIONS_MAX: usize = 8192;

/// Why the tailer cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TailerError {
    /// A keyword rule is unusable.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A mask is unusable.
    #[error("{0}")]
    Mask(String),
}

/// A log to follow.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Names the log across restarts: the container's id.
    pub(crate) id: String,
    /// Whose log it is.
    pub(crate) entity: EntityId,
    /// The file; `None` when lines are fed.
    pub(crate) path: Option<PathBuf>,
    /// Below this folder no link is followed on the way to the file.
    pub(crate) beneath: Option<PathBuf>,
    /// Whose log it is, as the rules select it.
    pub(crate) subject: Subject,
    /// How the file is written.
    pub(crate) format: Format,
    /// How its records begin.
    pub(crate) first_line: Rc<FirstLine>,
    /// Whether the log was there before the agent first looked: then its past is passed over.
    pub(crate) is_old: bool,
    /// Whether something may still be written to it.
    pub(crate) is_running: bool,
}

/// What was counted since the last tick.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Lines read.
    pub(crate) lines: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Bytes gone before they were read.
    pub(crate) lost_bytes: u64,
    /// Lines longer than the bound.
    pub(crate) cut_lines: u64,
    /// Hits by rule; a rule that hit once stays.
    pub(crate) hits: BTreeMap<String, u64>,
}

impl Counts {
    /// Whether nothing was counted; what hits a rule is a line.
    fn is_empty(&self) -> bool {
        self.lines == 0 && self.bytes == 0 && self.lost_bytes == 0
    }
}

#[derive(Debug)]
struct Tracked {
    source: Source,
    follower: Option<Follower>,
    fed: Joiner,
    /// When the newest whole line of what was fed was printed, by the clock of whoever feeds.
    heard: Option<i64>,
    applies: Applies,
    group: Group,
    /// Read to its end and not written to any more: not looked at until its container runs again.
    is_asleep: bool,
    /// Something may be there to read.
    is_dirty: bool,
    /// The path may show another file than the one that is held.
    may_have_turned: bool,
    /// Looks since its path shows no file.
    turn_looks: u8,
    /// Its container is no more: read to its end, then forgotten.
    is_leaving: bool,
    /// Looks in vain since its container ended.
    last_looks: u8,
    /// The watch on the file that the follower holds.
    watch: Option<Watched>,
}

/// A watch of the kernel on one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watched {
    mark: Mark,
    file: (u64, u64),
}

/// When to look, on the clock that never jumps.
#[derive(Debug)]
struct Pace {
    /// Between two looks at what is written to all the time, and at what cannot be watched.
    interval_ms: i64,
    /// Nobody is woken by what is written before this.
    quiet_until_ms: i64,
    /// Something was written of late: look again when the quiet ends.
    is_gathering: bool,
    unwatched_at_ms: i64,
    all_at_ms: i64,
    /// Look at once.
    is_due: bool,
    /// A log was renamed or removed: look at that one now.
    turn_at_ms: i64,
}

/// What a look met.
#[derive(Debug)]
struct Looked {
    bytes: u64,
    /// There is more than one look may take.
    more: bool,
    /// A log was renamed and not yet begun anew.
    is_turning: bool,
}

impl Pace {
    fn wants_all(&self, boot_ms: i64) -> bool {
        boot_ms >= self.all_at_ms - LOOK_ALL_EARLY_MS
    }

    fn after(&mut self, looked: &Looked, boot_ms: i64) {
        self.is_due = looked.more;
        self.turn_at_ms = if looked.is_turning { boot_ms + TURN_MS } else { i64::MAX };
    }
}

/// How the files are watched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Watching {
    /// Files that the kernel tells about.
    pub(crate) watched: usize,
    /// Files that have to be looked at.
    pub(crate) unwatched: usize,
    /// Why the last one of these is not watched.
    pub(crate) refusal: Option<String>,
}

/// Follows all logs.
#[derive(Debug)]
pub(crate) struct Tailer {
    watch: Watch,
    tracked: Vec<Tracked>,
    /// Positions of logs that an earlier run followed and that have not shown up yet.
    earlier: HashMap<String, Position>,
    /// The same of logs that were fed.
    earlier_heard: HashMap<String, i64>,
    buffer: Vec<u8>,
    /// Where the next look begins, so that a storm in one log does not starve the others.
    turn: usize,
    wake: Wake,
    pace: Pace,
}

/// Matches and counts lines.
#[derive(Debug)]
struct Watch {
    matcher: Matcher,
    version: u64,
    masks: Masks,
    counts: HashMap<EntityId, Counts>,
    hits: Vec<KeywordHit>,
    sampled: HashMap<EntityId, (i64, u32)>,
    found: Vec<(usize, std::ops::Range<usize>)>,
    /// Text with its case folded, while it is searched.
    fold: Vec<u8>,
    samples_a_day_max: u32,
}

/// Where the surroundings of a line can be had.
struct Surroundings<'a> {
    file: Option<(&'a File, u64)>,
    rest: &'a [u8],
    format: Format,
}

impl Tailer {
    /// A tailer with these rules and masks, which goes on where the checkpoint says.
    ///
    /// # Errors
    /// A rule or a mask cannot be used.
    pub(crate) fn new(rules: &[KeywordRule], masks: &[String], checkpoint: Option<&[u8]>) -> Result<Self, TailerError> {
        let Checkpoint { logs: earlier, heard: earlier_heard, counts } =
            checkpoint.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
        let watch = Watch {
            matcher: Matcher::compile(rules)?,
            version: 0,
            masks: Masks::new(masks).map_err(TailerError::Mask)?,
            counts: counts.into_iter().map(|(entity, counts)| (EntityId(entity), counts)).collect(),
            hits: Vec::new(),
            sampled: HashMap::new(),
            found: Vec::new(),
            fold: Vec::new(),
            samples_a_day_max: SAMPLES_A_DAY_MAX,
        };
        let pace = Pace {
            interval_ms: 1_000,
            quiet_until_ms: 0,
            is_gathering: false,
            unwatched_at_ms: 0,
            all_at_ms: 0,
            is_due: true,
            turn_at_ms: i64::MAX,
        };
        Ok(Self {
            watch,
            tracked: Vec::new(),
            earlier,
            earlier_heard,
            buffer: Vec::new(),
            turn: 0,
            wake: Wake::new(),
            pace,
        })
    }

    /// Looks at most this often at what is written to all the time.
    pub(crate) fn set_interval(&mut self, interval_ms: i64) {
        self.pace.interval_ms = interval_ms;
    }

    /// Uses other rules from the next line on.
    ///
    /// # Errors
    /// A rule cannot be used; the old ones stay.
    pub(crate) fn set_rules(&mut self, rules: &[KeywordRule], version: u64) -> Result<(), RuleError> {
        self.watch.matcher = Matcher::compile(rules)?;
        self.watch.version = version;
        for log in &mut self.tracked {
            log.applies = self.watch.matcher.applies_to(&log.source.subject);
            log.group.end();
        }
        Ok(())
    }

    /// Samples no more lines of one workload in one day than this, and never more than the agent's own bound.
    pub(crate) fn set_samples_a_day_max(&mut self, count: Option<u32>) {
        self.watch.samples_a_day_max = count.unwrap_or(SAMPLES_A_DAY_MAX).min(SAMPLES_A_DAY_MAX);
    }

    /// The version of the rules in use.
    #[must_use]
    pub(crate) fn rules_version(&self) -> u64 {
        self.watch.version
    }

    /// Follows exactly these logs from now on.
    pub(crate) fn set_sources(&mut self, sources: impl IntoIterator<Item = Source>) {
        let mut before: HashMap<String, Tracked> =
            std::mem::take(&mut self.tracked).into_iter().map(|log| (log.source.id.clone(), log)).collect();
        for source in sources {
            let known = before.remove(&source.id).filter(|log| log.source.path == source.path);
            let applies = self.watch.matcher.applies_to(&source.subject);
            let tracked = match known {
                Some(log) => Tracked {
                    is_asleep: log.is_asleep && !source.is_running,
                    is_dirty: log.is_dirty || log.source.is_running != source.is_running,
                    may_have_turned: log.may_have_turned || log.source.is_running != source.is_running,
                    is_leaving: false,
                    last_looks: 0,
                    applies,
                    source,
                    ..log
                },
                None => {
                    let earlier = self.earlier.remove(&source.id).map(Begin::At);
                    let begin = earlier.unwrap_or(if source.is_old { Begin::End } else { Begin::Start });
                    let follower = source
                        .path
                        .clone()
                        .map(|path| Follower::new(path, source.beneath.clone(), source.format, begin));
                    Tracked {
                        heard: self.earlier_heard.remove(&source.id),
                        source,
                        follower,
                        fed: Joiner::default(),
                        applies,
                        group: Group::default(),
                        is_asleep: false,
                        is_dirty: true,
                        may_have_turned: true,
                        turn_looks: 0,
                        is_leaving: false,
                        last_looks: 0,
                        watch: None,
                    }
                }
            };
            self.watch.counts.entry(tracked.source.entity).or_default();
            self.tracked.push(tracked);
        }
        for (_, log) in before {
            // A removed log is still there for whoever holds it: what it ended with is read.
            if log.follower.as_ref().is_some_and(|follower| follower.held().is_some()) {
                self.tracked.push(Tracked { is_dirty: true, may_have_turned: true, is_leaving: true, ..log });
            } else if let Some(watched) = log.watch {
                self.wake.forget(watched.mark);
            }
        }
        self.pace.is_due = true;
        let tracked = &self.tracked;
        // What was counted of a log that is gone by now is taken first.
        self.watch
            .counts
            .retain(|entity, counts| !counts.is_empty() || tracked.iter().any(|log| log.source.entity == *entity));
        self.watch.sampled.retain(|entity, _| tracked.iter().any(|log| log.source.entity == *entity));
    }

    /// When [`Self::look`] is to be called though nothing was written, on the clock of `boot_ms`.
    #[must_use]
    pub(crate) fn due_ms(&self) -> i64 {
        let pace = &self.pace;
        if pace.is_due {
            return 0;
        }
        let gathered = if pace.is_gathering { pace.quiet_until_ms } else { i64::MAX };
        let is_blind = self.tracked.iter().any(Tracked::is_unwatched);
        gathered.min(pace.all_at_ms).min(pace.turn_at_ms).min(if is_blind { pace.unwatched_at_ms } else { i64::MAX })
    }

    /// Whether something waits for its look: whoever is awake anyway may look now.
    #[must_use]
    pub(crate) fn may_look(&self, boot_ms: i64) -> bool {
        self.pace.is_gathering || self.pace.wants_all(boot_ms)
    }

    /// Ends when a followed file was written to after a rest, or was renamed or removed: [`Self::due_ms`] is over then.
    pub(crate) async fn written(&mut self) {
        match self.wake.woken(!self.pace.is_gathering).await {
            Woken::Write => self.pace.is_due = true,
            Woken::Turn => self.pace.turn_at_ms = 0,
        }
    }

    /// Reads what was written since the last look, of every file only so much that nothing else is held up.
    pub(crate) fn look(&mut self, wall_ms: i64, boot_ms: i64) {
        // What was only written may gather on while a log that rotates is read at once.
        let pace = &mut self.pace;
        let is_turn = std::mem::replace(&mut pace.turn_at_ms, i64::MAX) <= boot_ms;
        let is_turn_only = is_turn
            && !pace.is_due
            && pace.is_gathering
            && boot_ms < pace.quiet_until_ms.min(pace.all_at_ms).min(pace.unwatched_at_ms);
        let turned = self.wake.take_turns();
        for log in &mut self.tracked {
            let has_turned = log.watch.is_some_and(|watched| turned.has_turned(watched.mark));
            log.may_have_turned |= has_turned;
            log.is_dirty |= has_turned;
        }
        if is_turn_only {
            let looked = self.read_dirty(wall_ms);
            self.pace.after(&looked, boot_ms);
            return;
        }
        let written = self.wake.take_writes();
        let all = self.pace.wants_all(boot_ms);
        let unwatched = boot_ms >= self.pace.unwatched_at_ms;
        for log in &mut self.tracked {
            log.may_have_turned |= all;
            match log.watch {
                Some(watched) => {
                    log.is_dirty |= all || written.was_written(watched.mark);
                    if written.ended(watched.mark) {
                        (log.watch, log.is_dirty) = (None, true);
                    }
                }
                None => log.is_dirty |= all || unwatched,
            }
        }
        let looked = self.read_dirty(wall_ms);
        let pace = &mut self.pace;
        if all {
            pace.all_at_ms = boot_ms + LOOK_ALL_MS;
        }
        if unwatched {
            pace.unwatched_at_ms = boot_ms + pace.interval_ms;
        }
        let pause_ms = if looked.bytes > BUSY_BYTES { pace.interval_ms / BUSY_SHARE } else { pace.interval_ms };
        pace.quiet_until_ms = boot_ms + pause_ms;
        pace.is_gathering = looked.bytes > 0
            || !turned.is_empty()
            || !written.is_empty()
            || self.tracked.iter().any(|log| log.is_dirty);
        pace.after(&looked, boot_ms);
    }

    /// Looks at every file. `true` when there is more than one look may take.
    #[cfg(test)]
    pub(crate) fn poll(&mut self, now_ms: i64) -> bool {
        self.tracked.iter_mut().for_each(|log| (log.is_dirty, log.may_have_turned) = (true, true));
        self.read_dirty(now_ms).more
    }

    /// Reads the files in which something may be.
    fn read_dirty(&mut self, now_ms: i64) -> Looked {
        let (mut left, mut more, mut is_turning) = (BYTES_A_POLL, false, false);
        let count = self.tracked.len();
        for step in 0..count {
            let Some(log) = self.tracked.get_mut((self.turn + step) % count) else { continue };
            if log.is_asleep || !log.is_dirty {
                continue;
            }
            if left == 0 {
                self.turn = (self.turn + step) % count;
                more = true;
                break;
            }
            let Some(follower) = &mut log.follower else { continue };
            let entity = log.source.entity;
            let (source, applies, group) = (&log.source, &log.applies, &mut log.group);
            let mut lines = LogLines { watch: &mut self.watch, source, applies, group, now_ms };
            // What is not watched may have turned at any time.
            let may_have_turned = log.may_have_turned || log.watch.is_none();
            let budget = left.min(SOURCE_BYTES_A_POLL);
            let progress = follower.poll(&mut self.buffer, budget, may_have_turned, now_ms, &mut lines);
            log.may_have_turned &= progress.more || progress.is_turning;
            log.turn_looks = if progress.is_turning { log.turn_looks.saturating_add(1) } else { 0 };
            is_turning |= (1..=TURN_LOOKS).contains(&log.turn_looks);
            if log.is_leaving && !progress.more {
                follower.finish(&mut lines);
                follower.let_go();
            }
            let counts = self.watch.counts.entry(entity).or_default();
            counts.bytes += progress.bytes;
            counts.lost_bytes += progress.lost_bytes;
            let is_new = log.keep_watch(&mut self.wake);
            // What happened between reading and watching has no notice.
            log.is_dirty = progress.more || is_new || (1..=TURN_LOOKS).contains(&log.turn_looks);
            log.may_have_turned |= is_new;
            if !log.source.is_running && !log.is_leaving {
                log.last_looks = if progress.bytes == 0 { log.last_looks + 1 } else { 0 };
                log.is_dirty = true;
                if log.last_looks >= LAST_LOOKS {
                    log.sleep(&mut self.wake);
                }
            }
            left = left.saturating_sub(progress.bytes);
            more |= progress.more;
        }
        let mut left_any = false;
        self.tracked.retain(|log| {
            let has_left = log.is_leaving && log.follower.as_ref().is_none_or(|follower| follower.held().is_none());
            left_any |= has_left;
            !has_left
        });
        if left_any {
            self.turn = 0;
        }
        Looked { bytes: BYTES_A_POLL - left, more, is_turning }
    }

    /// Files that the kernel does not tell about.
    #[must_use]
    pub(crate) fn unwatched(&self) -> usize {
        self.tracked.iter().filter(|log| log.is_unwatched()).count()
    }

    /// Takes a piece of a log that only the engine's API can give; `heard` is when the line that it ends was printed.
    pub(crate) fn feed(&mut self, id: &str, mut piece: &[u8], heard: Option<i64>, now_ms: i64) {
        let Some(log) = self.tracked.iter_mut().find(|log| log.source.id == id && log.follower.is_none()) else {
            return;
        };
        let (source, applies, group) = (&log.source, &log.applies, &mut log.group);
        self.watch.counts.entry(source.entity).or_default().bytes += piece.len() as u64;
        let mut lines = LogLines { watch: &mut self.watch, source, applies, group, now_ms };
        while !piece.is_empty() {
            let end = memchr::memchr(b'\n', piece);
            let (head, rest) = end.map_or((piece, &[][..]), |end| (&piece[..end], &piece[end + 1..]));
            let text = head.strip_suffix(b"\r").unwrap_or(head);
            let record = Record { text, ends_line: end.is_some(), is_error: false };
            if let Some(line) = log.fed.add(&record, 0) {
                let around = Surroundings { file: None, rest, format: Format::Plain };
                lines.take(line.text, line.cut, &around);
            }
            piece = rest;
        }
        log.fed.shrink();
        log.heard = heard.or(log.heard);
    }

    /// How far the logs that are fed were taken, by id: whoever feeds goes on after that.
    #[must_use]
    pub(crate) fn heard(&self) -> HashMap<String, i64> {
        let heard = self.tracked.iter().filter_map(|log| Some((log.source.id.clone(), log.heard?)));
        heard.chain(self.earlier_heard.iter().map(|(id, at)| (id.clone(), *at))).take(POSITIONS_MAX).collect()
    }

    /// Whether a keyword hit waits.
    #[must_use]
    pub(crate) fn has_hits(&self) -> bool {
        !self.watch.hits.is_empty()
    }

    /// The hits since the last call.
    pub(crate) fn take_hits(&mut self) -> Vec<KeywordHit> {
        std::mem::take(&mut self.watch.hits)
    }

    /// Gives the counts since the last call to `each`.
    pub(crate) fn take_counts(&mut self, mut each: impl FnMut(EntityId, &Counts)) {
        for (entity, counts) in &mut self.watch.counts {
            each(*entity, counts);
            counts.hits.values_mut().for_each(|count| *count = 0);
            *counts = Counts { hits: std::mem::take(&mut counts.hits), ..Counts::default() };
        }
    }

    /// The positions by now, with the counts up to them that were not taken yet, as [`Tailer::new`] takes them.
    #[must_use]
    pub(crate) fn checkpoint(&self) -> Vec<u8> {
        let reached =
            self.tracked.iter().filter_map(|log| Some((log.source.id.clone(), log.follower.as_ref()?.position()?)));
        let earlier = self.earlier.iter().map(|(id, position)| (id.clone(), *position));
        let logs = reached.chain(earlier).take(POSITIONS_MAX).collect();
        let counts = self.watch.counts.iter().filter(|(_, counts)| !counts.is_empty());
        let counts = counts.map(|(entity, counts)| (entity.0, counts.clone())).collect();
        serde_json::to_vec(&Checkpoint { logs, heard: self.heard(), counts }).unwrap_or_default()
    }

    /// Forgets the positions of an earlier run whose logs are not among the sources: they are gone.
    pub(crate) fn forget_earlier(&mut self) {
        self.earlier.clear();
        self.earlier_heard.clear();
    }
}

impl Tracked {
    /// Whether nobody tells when its file is written to, or when it comes to be.
    fn is_unwatched(&self) -> bool {
        self.follower.is_some() && self.watch.is_none() && !self.is_asleep
    }

    /// Watches the file that is held by now. `true` when that one was not watched before.
    fn keep_watch(&mut self, wake: &mut Wake) -> bool {
        let held = self.follower.as_ref().and_then(Follower::held);
        if self.watch.map(|watched| watched.file) == held.map(|(_, file)| file) {
            return false;
        }
        if let Some(watched) = self.watch.take() {
            wake.forget(watched.mark);
        }
        self.watch = held.and_then(|(file, id)| Some(Watched { mark: wake.watch(file)?, file: id }));
        self.watch.is_some()
    }

    fn sleep(&mut self, wake: &mut Wake) {
        if let Some(follower) = &mut self.follower {
            follower.let_go();
        }
        self.keep_watch(wake);
        (self.is_asleep, self.is_dirty) = (true, false);
    }
}

/// The lines of one log on their way to the watch.
struct LogLines<'a> {
    watch: &'a mut Watch,
    source: &'a Source,
    applies: &'a Applies,
    group: &'a mut Group,
    now_ms: i64,
}

impl LogLines<'_> {
    fn take(&mut self, text: &[u8], cut: bool, around: &Surroundings<'_>) {
        let entity = self.source.entity;
        let mut found = std::mem::take(&mut self.watch.found);
        self.watch.matcher.find(text, &mut found);
        found.retain(|(rule, _)| self.applies.has(*rule));
        if !found.is_empty() || !self.group.is_empty() {
            self.group.step(self.source.first_line.begins(text), self.now_ms);
        }
        // A record hits a rule once.
        found.retain(|(rule, _)| self.group.note(*rule));
        self.watch.see(entity, text, cut, &found, self.now_ms, around);
        self.watch.found = found;
    }
}

impl Sink for LogLines<'_> {
    fn see(&mut self, seen: &Seen<'_>) {
        let file = Some((seen.file, seen.line.from));
        let around = Surroundings { file, rest: seen.rest, format: self.source.format };
        self.take(seen.line.text, seen.line.cut, &around);
    }

    fn choose(&mut self, lines: &[u8], starts: &mut Vec<usize>) -> bool {
        if self.applies.by_line {
            return false;
        }
        let Watch { matcher, fold, .. } = &mut *self.watch;
        matcher.scan(lines, fold, starts);
        true
    }

    fn pass_over(&mut self, lines: u64) {
        self.watch.counts.entry(self.source.entity).or_default().lines += lines;
    }

    fn go_past(&mut self, lines: &[u8]) {
        if self.group.is_empty() {
            return;
        }
        let (mut scratch, mut passed) = (Vec::new(), 0);
        for record in lines.split_inclusive(|byte| *byte == b'\n') {
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            if self.source.first_line.begins(self.source.format.parse(record, &mut scratch).text) {
                return self.group.end();
            }
            passed += 1;
        }
        self.group.pass(passed);
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Checkpoint {
    logs: HashMap<String, Position>,
    #[serde(default)]
    heard: HashMap<String, i64>,
    /// Counted up to the positions and in no tick yet: their hits may have been told.
    #[serde(default)]
    counts: Vec<(u64, Counts)>,
}

impl Watch {
    fn see(
        &mut self,
        entity: EntityId,
        text: &[u8],
        cut: bool,
        found: &[(usize, std::ops::Range<usize>)],
        now_ms: i64,
        around: &Surroundings<'_>,
    ) {
        let counts = self.counts.entry(entity).or_default();
        counts.lines += 1;
        counts.cut_lines += u64::from(cut);
        for (rule, at) in found {
            let Some((name, severity)) = self.matcher.rule(*rule) else { continue };
            match counts.hits.get_mut(name) {
                Some(count) => *count += 1,
                None => {
                    counts.hits.insert(name.to_owned(), 1);
                }
            }
            let known = self.hits.iter().position(|hit| hit.entity == entity && hit.rule == name);
            let slot = match known {
                Some(slot) => slot,
                None if self.hits.len() >= limit::HITS_MAX => continue,
                None => {
                    self.hits.push(KeywordHit {
                        entity,
                        rule: name.to_owned(),
                        severity,
                        count: 0,
                        first_ms: now_ms,
                        last_ms: now_ms,
                        samples: Vec::new(),
                    });
                    self.hits.len() - 1
                }
            };
            let Some(hit) = self.hits.get_mut(slot) else { continue };
            hit.count += 1;
            hit.last_ms = now_ms;
            if hit.samples.len() < limit::HIT_SAMPLES_MAX
                && may_sample(&mut self.sampled, entity, now_ms, self.samples_a_day_max)
            {
                let needle = text.get(at.clone()).unwrap_or_default();
                hit.samples.push(LogSample {
                    at_ms: now_ms,
                    line: self.masks.apply(text, needle),
                    before: around.before(&self.masks),
                    after: around.after(&self.masks),
                });
            }
        }
    }
}

fn may_sample(sampled: &mut HashMap<EntityId, (i64, u32)>, entity: EntityId, now_ms: i64, count_max: u32) -> bool {
    let day = now_ms.div_euclid(DAY_MS);
    let entry = sampled.entry(entity).or_insert((day, 0));
    if entry.0 != day {
        *entry = (day, 0);
    }
    entry.1 += 1;
    entry.1 <= count_max
}

impl Surroundings<'_> {
    /// Lines before, oldest first, read back from the file: nothing is kept of lines that nobody asks for.
    fn before(&self, masks: &Masks) -> Vec<String> {
        let Some((file, from)) = self.file else { return Vec::new() };
        let start = from.saturating_sub(CONTEXT_BYTES);
        let mut bytes = vec![0; usize::try_from(from - start).unwrap_or(0)];
        if file.read_exact_at(&mut bytes, start).is_err() {
            return Vec::new();
        }
        // The first piece is whole only at the file's start.
        let skipped = if start == 0 { 0 } else { memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |end| end + 1) };
        let lines = self.lines(bytes.get(skipped..).unwrap_or_default());
        let first = lines.len().saturating_sub(limit::CONTEXT_BEFORE_LINES_MAX);
        lines.iter().skip(first).map(|line| masks.apply(line, b"")).collect()
    }

    fn after(&self, masks: &Masks) -> Vec<String> {
        let end = memchr::memchr_iter(b'\n', self.rest).nth(4 * limit::CONTEXT_AFTER_LINES_MAX);
        let lines = self.lines(&self.rest[..end.unwrap_or(self.rest.len())]);
        lines.iter().take(limit::CONTEXT_AFTER_LINES_MAX).map(|line| masks.apply(line, b"")).collect()
    }

    fn lines(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut joiner, mut scratch, mut lines) = (Joiner::default(), Vec::new(), Vec::new());
        for record in bytes.split(|byte| *byte == b'\n').filter(|record| !record.is_empty()) {
            let record = self.format.parse(record, &mut scratch);
            if let Some(line) = joiner.add(&record, 0) {
                lines.push(line.text.to_vec());
            }
        }
        lines
    }
}

/// Follows one log from its start to its end: lines and hits. For benches.
pub(crate) fn follow_all(path: &Path, format: u8, rules: &[KeywordRule]) -> Result<(u64, u64), String> {
    let mut tailer = Tailer::new(rules, &[], None).map_err(|error| error.to_string())?;
    tailer.set_sources([Source {
        id: String::new(),
        entity: EntityId(0),
        path: Some(path.to_owned()),
        beneath: None,
        subject: Subject::default(),
        format: [Format::Plain, Format::JsonFile, Format::Cri][usize::from(format) % 3],
        first_line: Rc::default(),
        is_old: false,
        is_running: true,
    }]);
    let mut boot_ms = 0;
    while tailer.due_ms() <= boot_ms {
        tailer.look(boot_ms, boot_ms);
        boot_ms += i64::from(!tailer.pace.is_due);
    }
    let (mut lines, mut hits) = (0, 0);
    tailer.take_counts(|_, counts| {
        lines += counts.lines;
        hits += counts.hits.values().sum::<u64>();
    });
    Ok((lines, hits))
}

/// How files at these paths would be watched by now.
#[must_use]
pub(crate) fn try_watching<'a>(paths: impl Iterator<Item = &'a Path>) -> Watching {
    let mut wake = Wake::new();
    let files: Vec<File> = paths.filter_map(|path| follow::open_log(path, None).ok()).collect();
    let watched = files.iter().filter(|file| wake.watch(file).is_some()).count();
    let unwatched = files.len() - watched;
    Watching { watched, unwatched, refusal: wake.refusal().filter(|_| unwatched > 0) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
