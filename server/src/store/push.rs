//! Intake's half of the store: a group of blocks from many agents becomes durable in one transaction.
//!
//! A receipt is written in the same transaction as its blocks, so a block is stored once whatever is sent again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, SmallInt};
use forewarn_common::block::{Block, Dictionary, EncodeError, Entity, Header, Layout, Urgent};
use forewarn_common::id::{EntityId, HostId, LayoutId};
use forewarn_common::limit;

use super::connection::{Conn, Tx, TxError};
use super::many::{self, Text, values};
use super::receipt::Ranges;
use super::schema::{block, entity, receipt, series_group};
use super::{Store, StoreError, last, log, read, signed};

/// Longest span of a block: every sample lies within it of the block's start, which bounds how far back a read looks.
pub const BLOCK_SPAN_MS_MAX: i64 = 12 * HOUR_MS;
/// A block that starts later than this after its arrival would neither be merged nor deleted for as long.
const FUTURE_MS_MAX: i64 = 24 * HOUR_MS;
/// Bytes of blocks in one INSERT: far below any sensible `max_allowed_packet`.
const INSERT_BYTES_MAX: usize = 4 << 20;
/// Rows of one INSERT: SQLite takes 32,766 parameters a statement.
pub(super) const INSERT_ROWS_MAX: usize = 500;
/// Rows that one DELETE names by key and version; SQLite nests an expression a thousand deep at most.
const OR_TERMS_MAX: usize = 100;
/// How far `series_group.last_ms` may lag behind.
pub(super) const SEEN_LAG_MS: i64 = HOUR_MS;
/// Hosts in the cache of what the database knows; over it the cache starts anew.
const KNOWN_HOSTS_MAX: usize = 20_000;
const HOUR_MS: i64 = 3_600_000;

/// The tier of blocks as they arrived.
pub(super) const TIER_PUSHED: i16 = 0;
/// The tier of hours at full resolution.
pub(super) const TIER_HOUR: i16 = 1;
/// Sums of five minutes that no day has taken in yet; made in the transaction that makes the hour.
pub(super) const TIER_DAY_PART: i16 = 2;
/// Days of sums of five minutes.
pub(super) const TIER_DAY: i16 = 3;
/// Sums of an hour that no month has taken in yet; made in the transaction that makes the day.
pub(super) const TIER_MONTH_PART: i16 = 4;
/// Months of sums of an hour.
pub(super) const TIER_MONTH: i16 = 5;

/// A block that intake has checked.
#[derive(Debug, Clone)]
pub struct Arriving {
    /// Its header.
    pub header: Header,
    /// Its bytes, as they came.
    pub bytes: Vec<u8>,
    /// How many values its columns have room for, as far as their layouts are known: for the books.
    pub values: i64,
    /// When it arrived, unix milliseconds by the server's clock.
    pub received_ms: i64,
    /// The agent's clock less the server's.
    pub skew_ms: i64,
    /// Tick 0 by the server's clock: the header's own start unless the agent's clock is wrong.
    pub corrected_start_ms: i64,
    /// The groups of its samples.
    pub keys: Vec<(EntityId, LayoutId)>,
    /// What it says of layouts and entities.
    pub dictionary: Dictionary,
    /// Last values, keyword hits, engine events.
    pub urgent: Urgent,
}

impl Arriving {
    /// A block made here, in time by a clock that is right: for simulated sites. `layouts` are those of its groups.
    ///
    /// # Errors
    /// The block cannot be encoded.
    pub fn in_time(block: Block, layouts: &[Layout]) -> Result<Self, EncodeError> {
        Ok(Self {
            header: block.header,
            bytes: block.encode(|id| layouts.iter().find(|layout| layout.id() == id))?,
            values: block.values() as i64,
            received_ms: block.header.closed_ms,
            skew_ms: 0,
            corrected_start_ms: block.header.start_ms,
            keys: block.groups.iter().map(|group| (group.entity, group.layout)).collect(),
            dictionary: block.dictionary,
            urgent: block.urgent,
        })
    }

    /// What has to be added to the agent's times.
    pub(super) fn shift_ms(&self) -> i64 {
        self.corrected_start_ms - self.header.start_ms
    }

    /// The end of its span by the server's clock, exclusive.
    fn end_ms(&self) -> i64 {
        self.corrected_start_ms + i64::from(self.header.step_ms) * i64::from(self.header.ticks)
    }

    /// A time that the agent named, by the server's clock; never later than the block can know of.
    pub(super) fn corrected_ms(&self, time_ms: i64) -> i64 {
        time_ms.saturating_add(self.shift_ms()).clamp(0, self.received_ms.saturating_add(limit::CLOCK_SKEW_MS_MAX))
    }
}

/// What became of an arriving block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PushOutcome {
    /// False when a receipt covered it already: acknowledge it again, do not judge it again.
    pub stored: bool,
    /// Why it can never be stored; `None` for all others.
    pub refused: Option<&'static str>,
    /// Layouts to ask the agent for.
    pub unknown_layouts: Vec<LayoutId>,
    /// Entities to ask the agent for.
    pub unknown_entities: Vec<EntityId>,
}

/// What is known to be in the database of one host.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Entity → hash of its record.
    entities: HashMap<EntityId, u64>,
    /// Group → its `last_ms`.
    groups: HashMap<(EntityId, LayoutId), i64>,
}

/// The receipt that this process wrote last of a host: its epoch, version and ranges. It spares the next push a read.
/// Only ever a guess at what is in the database now: the version is compared when it is replaced, and a wrong guess
/// reads again.
pub(super) type Mark = (i64, i64, Ranges);

type Marks = HashMap<HostId, Mark>;

/// A row of the receipt table.
struct NewReceipt<'a> {
    host: &'a [u8],
    epoch: i64,
    version: i64,
    ranges: Vec<u8>,
}

impl<'a> NewReceipt<'a> {
    fn of(host: &'a HostId, epoch: i64, version: i64, ranges: &Ranges) -> Self {
        Self { host: host.0.as_slice(), epoch, version, ranges: ranges.encode() }
    }
}

values!(NewReceipt { host: Binary, epoch: BigInt, version: BigInt, ranges: Binary });

/// A row of the table of hosts' states.
struct NewState<'a> {
    host: &'a [u8],
    seen_ms: i64,
    skew_ms: i64,
    last_at_ms: i64,
    last_values: Vec<u8>,
}

values!(NewState { host: Binary, seen_ms: BigInt, skew_ms: BigInt, last_at_ms: BigInt, last_values: Binary });

/// A row of the block table, of any tier.
#[derive(Insertable)]
#[diesel(table_name = block, treat_none_as_default_value = false)]
pub(super) struct NewBlock<'a> {
    pub(super) tier: i16,
    pub(super) start_ms: i64,
    pub(super) host: &'a [u8],
    pub(super) part: i64,
    pub(super) end_ms: i64,
    pub(super) stored_ms: i64,
    pub(super) samples: i64,
    pub(super) skewed: bool,
    pub(super) bytes: &'a [u8],
}

values!(NewBlock {
    tier: SmallInt,
    start_ms: BigInt,
    host: Binary,
    part: BigInt,
    end_ms: BigInt,
    stored_ms: BigInt,
    samples: BigInt,
    skewed: Bool,
    bytes: Binary
});

/// A block.
pub(super) const BLOCKS: Text = Text {
    head: "INSERT INTO block (tier, start_ms, host, part, end_ms, stored_ms, samples, skewed, bytes) VALUES ",
    tail_mysql: "",
    tail_sqlite: "",
};

/// A receipt that was not there.
const NEW_RECEIPTS: Text =
    Text { head: "INSERT INTO receipt (host, epoch, version, ranges) VALUES ", tail_mysql: "", tail_sqlite: "" };

/// A receipt in the place of the version before it, or nothing: see [`many::is_changed`].
const NEXT_RECEIPTS: Text = Text {
    head: "INSERT INTO receipt (host, epoch, version, ranges) VALUES ",
    // MySQL assigns from left to right: the version is compared before it is set.
    tail_mysql: " ON DUPLICATE KEY UPDATE ranges = IF(version = VALUES(version) - 1, VALUES(ranges), ranges), \
                 version = IF(version = VALUES(version) - 1, VALUES(version), version)",
    tail_sqlite: " ON CONFLICT (host, epoch) DO UPDATE SET version = excluded.version, ranges = excluded.ranges \
                  WHERE receipt.version = excluded.version - 1",
};

/// How a host stands; older last values do not take the place of newer ones, unless those are of a future that a wrong
/// clock wrote (later by more than `limit::CLOCK_SKEW_MS_MAX`).
const STATES: Text = Text {
    head: "INSERT INTO host_state (host, seen_ms, skew_ms, last_at_ms, last_values) VALUES ",
    tail_mysql: " ON DUPLICATE KEY UPDATE \
                 last_values = IF(last_at_ms BETWEEN VALUES(last_at_ms) + 1 AND VALUES(seen_ms) + 300000, \
                 last_values, VALUES(last_values)), \
                 last_at_ms = IF(last_at_ms BETWEEN VALUES(last_at_ms) + 1 AND VALUES(seen_ms) + 300000, \
                 last_at_ms, VALUES(last_at_ms)), \
                 seen_ms = IF(seen_ms BETWEEN VALUES(seen_ms) AND VALUES(seen_ms) + 300000, seen_ms, VALUES(seen_ms)), \
                 skew_ms = VALUES(skew_ms)",
    tail_sqlite: " ON CONFLICT (host) DO UPDATE SET \
                  last_values = iif(last_at_ms BETWEEN excluded.last_at_ms + 1 AND excluded.seen_ms + 300000, \
                  last_values, excluded.last_values), \
                  last_at_ms = iif(last_at_ms BETWEEN excluded.last_at_ms + 1 AND excluded.seen_ms + 300000, \
                  last_at_ms, excluded.last_at_ms), \
                  seen_ms = iif(seen_ms BETWEEN excluded.seen_ms AND excluded.seen_ms + 300000, seen_ms, \
                  excluded.seen_ms), skew_ms = excluded.skew_ms",
};

/// A layout; one that is there and was not understood is damaged.
const LAYOUTS: Text = Text {
    head: "INSERT INTO layout (id, bytes) VALUES ",
    tail_mysql: " ON DUPLICATE KEY UPDATE bytes = VALUES(bytes)",
    tail_sqlite: " ON CONFLICT (id) DO UPDATE SET bytes = excluded.bytes",
};

struct NewLayout<'a> {
    id: i64,
    bytes: &'a [u8],
}

values!(NewLayout { id: BigInt, bytes: Binary });

/// An entity's record; the newest takes the place of what was known.
const ENTITIES: Text = Text {
    head: "INSERT INTO entity (host, id, first_ms, updated_ms, record) VALUES ",
    tail_mysql: " ON DUPLICATE KEY UPDATE updated_ms = VALUES(updated_ms), record = VALUES(record)",
    tail_sqlite: " ON CONFLICT (host, id) DO UPDATE SET updated_ms = excluded.updated_ms, record = excluded.record",
};

/// A group of a host, or how much longer it goes.
const GROUPS: Text = Text {
    head: "INSERT INTO series_group (host, entity, layout, first_ms, last_ms) VALUES ",
    tail_mysql: " ON DUPLICATE KEY UPDATE last_ms = GREATEST(last_ms, VALUES(last_ms))",
    tail_sqlite: " ON CONFLICT (host, entity, layout) DO UPDATE SET \
                  last_ms = max(series_group.last_ms, excluded.last_ms)",
};

struct NewEntity<'a> {
    host: &'a [u8],
    id: i64,
    first_ms: i64,
    updated_ms: i64,
    record: Vec<u8>,
}

values!(NewEntity { host: Binary, id: BigInt, first_ms: BigInt, updated_ms: BigInt, record: Binary });

struct NewGroup<'a> {
    host: &'a [u8],
    entity: i64,
    layout: i64,
    first_ms: i64,
    last_ms: i64,
}

values!(NewGroup { host: Binary, entity: BigInt, layout: BigInt, first_ms: BigInt, last_ms: BigInt });

struct Pushed {
    outcomes: Vec<PushOutcome>,
    known: HashMap<HostId, Arc<Known>>,
    marks: Marks,
    layouts: Vec<(LayoutId, Arc<Layout>)>,
}

impl Store {
    /// Stores a group of blocks, durably, in one transaction; the outcomes are in the order of `arrivals`.
    ///
    /// # Errors
    /// The database did not take them: none is stored, all may be sent again.
    pub async fn push(&self, arrivals: Vec<Arriving>) -> Result<Vec<PushOutcome>, StoreError> {
        self.push_group(Arc::new(arrivals)).await
    }

    /// As [`Self::push`]; who may have to try again keeps the blocks without copying them.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn push_group(&self, arrivals: Arc<Vec<Arriving>>) -> Result<Vec<PushOutcome>, StoreError> {
        if arrivals.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.clone();
        let mut first = true;
        let pushed = self
            .inner
            .pool
            .write(move |connection| {
                // After a lost race what this process remembers may be what was wrong: ask the database.
                let trusted = std::mem::take(&mut first);
                push(connection, &store, &arrivals, trusted)
            })
            .await?;
        self.learn_layouts(pushed.layouts);
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + pushed.known.len() > KNOWN_HOSTS_MAX {
            known.clear();
        }
        known.extend(pushed.known);
        drop(known);
        let mut marks = self.inner.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() + pushed.marks.len() > KNOWN_HOSTS_MAX {
            marks.clear();
        }
        marks.extend(pushed.marks);
        Ok(pushed.outcomes)
    }
}

fn push(connection: &mut Conn, store: &Store, arrivals: &[Arriving], trusted: bool) -> Tx<Pushed> {
    let mut marks = if trusted { recall(store, arrivals) } else { Marks::new() };
    let (fresh, outcomes) = take_receipts(connection, arrivals, &mut marks)?;
    insert_blocks(connection, &fresh)?;
    log::insert_hits(connection, &fresh)?;
    log::insert_events(connection, &fresh)?;
    save_states(connection, arrivals, &fresh)?;
    let mut known = load_known(connection, store, arrivals, trusted)?;
    let layouts = save_layouts(connection, store, arrivals)?;
    save_entities(connection, arrivals, &mut known)?;
    save_groups(connection, &fresh, &mut known)?;
    let mut pushed = Pushed { outcomes, known, marks, layouts };
    name_unknown(store, arrivals, &mut pushed);
    Ok(pushed)
}

fn recall(store: &Store, arrivals: &[Arriving]) -> Marks {
    let marks = store.inner.marks.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |arriving: &Arriving| Some((arriving.header.host, marks.get(&arriving.header.host)?.clone()));
    arrivals.iter().filter_map(of).collect()
}

/// Marks what is new in the receipts; returns the new blocks.
fn take_receipts<'a>(
    connection: &mut Conn,
    arrivals: &'a [Arriving],
    marks: &mut Marks,
) -> Tx<(Vec<&'a Arriving>, Vec<PushOutcome>)> {
    let mut receipts = BTreeMap::new();
    let mut asked: BTreeSet<(HostId, i64)> = BTreeSet::new();
    for arriving in arrivals {
        let (host, epoch) = (arriving.header.host, signed(arriving.header.epoch));
        match marks.get(&host).filter(|(own, ..)| *own == epoch) {
            Some((_, version, ranges)) => {
                _ = receipts.entry((host, epoch)).or_insert((*version, ranges.clone(), false))
            }
            None if receipts.contains_key(&(host, epoch)) => {}
            None => _ = asked.insert((host, epoch)),
        }
    }
    // Named one by one: two lists would be looked up as all their pairs.
    let asked: Vec<(HostId, i64)> = asked.into_iter().collect();
    for asked in asked.chunks(OR_TERMS_MAX) {
        let mut these = receipt::table.into_boxed();
        for (host, epoch) in asked {
            these = these.or_filter(receipt::host.eq(host.0.as_slice()).and(receipt::epoch.eq(*epoch)));
        }
        let rows: Vec<(Vec<u8>, i64, i64, Vec<u8>)> = these.load(connection)?;
        for (host, epoch, version, ranges) in rows {
            let host = super::host_id(&host)?;
            // An agent sends again what was not answered: one block or two may be stored twice, where refusing all that
            // follow would lose them.
            let ranges = Ranges::decode(&ranges).unwrap_or_else(|error| {
                tracing::error!(%host, %error, "The receipt of epoch {epoch:016x} is damaged; begun anew");
                Ranges::default()
            });
            receipts.insert((host, epoch), (version, ranges, false));
        }
    }
    let (mut fresh, mut outcomes) = (Vec::new(), Vec::new());
    for arriving in arrivals {
        let key = (arriving.header.host, signed(arriving.header.epoch));
        let (_, ranges, changed) = receipts.entry(key).or_insert_with(|| (0, Ranges::default(), false));
        let mut outcome = PushOutcome::default();
        if ranges.contains(arriving.header.seq) {
            // Stored before: said again, not stored again.
        } else if let Some(reason) = refusal(arriving, ranges) {
            outcome.refused = Some(reason);
        } else {
            ranges.insert(arriving.header.seq);
            *changed = true;
            outcome.stored = true;
            fresh.push(arriving);
        }
        outcomes.push(outcome);
    }
    for ((host, epoch), (version, ranges, changed)) in &receipts {
        if *version + i64::from(*changed) > 0 && ranges.is_short() {
            let version = version + i64::from(*changed);
            marks.insert(*host, (*epoch, version, ranges.clone()));
        }
    }
    // Compare-and-set: what takes the place of an older version does so only where that one still stands.
    let changed = || receipts.iter().filter(|(_, (.., changed))| *changed);
    let rows = |first: bool| -> Vec<NewReceipt<'_>> {
        let of_kind = changed().filter(|(_, (version, ..))| (*version == 0) == first);
        of_kind.map(|((host, epoch), (version, ranges, _))| NewReceipt::of(host, *epoch, version + 1, ranges)).collect()
    };
    many::write(connection, &NEW_RECEIPTS, &rows(true))?;
    let next = rows(false);
    let affected = many::write(connection, &NEXT_RECEIPTS, &next)?;
    if !many::is_changed(connection, affected, next.len()) {
        return Err(TxError::Raced);
    }
    Ok((fresh, outcomes))
}

fn refusal(arriving: &Arriving, ranges: &Ranges) -> Option<&'static str> {
    let span_ms = i64::from(arriving.header.step_ms) * i64::from(arriving.header.ticks);
    if span_ms > BLOCK_SPAN_MS_MAX {
        return Some("the block spans more than 12 hours");
    }
    if !(0..i64::MAX / 4).contains(&arriving.corrected_start_ms) {
        return Some("the block starts at no possible time");
    }
    if arriving.corrected_start_ms > arriving.received_ms.saturating_add(FUTURE_MS_MAX) {
        return Some("the block starts in the future");
    }
    if arriving.bytes.len() > limit::BLOCK_BYTES_MAX {
        return Some("the block is too large");
    }
    if !ranges.has_room() {
        return Some("the epoch has too many gaps, restart the agent");
    }
    None
}

fn insert_blocks(connection: &mut Conn, fresh: &[&Arriving]) -> Tx<()> {
    let (mut rows, mut bytes) = (Vec::with_capacity(fresh.len()), 0);
    for (index, arriving) in fresh.iter().enumerate() {
        let header = &arriving.header;
        bytes += arriving.bytes.len();
        rows.push(NewBlock {
            tier: TIER_PUSHED,
            start_ms: arriving.corrected_start_ms,
            host: header.host.0.as_slice(),
            part: part_of(&(header.epoch, header.seq)),
            end_ms: arriving.end_ms(),
            stored_ms: arriving.received_ms,
            samples: arriving.values,
            skewed: arriving.skew_ms.saturating_abs() > limit::CLOCK_SKEW_MS_MAX,
            bytes: arriving.bytes.as_slice(),
        });
        let next = fresh.get(index + 1).map_or(usize::MAX, |next| next.bytes.len());
        if bytes.saturating_add(next) > INSERT_BYTES_MAX {
            many::write(connection, &BLOCKS, &rows)?;
            (rows, bytes) = (Vec::new(), 0);
        }
    }
    Ok(())
}

/// Names a row among those of one host that start at the same time.
pub(super) fn part_of(what: &impl Hash) -> i64 {
    // SipHash with fixed keys: the same name on every server, of this release at least; nothing depends on more.
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    signed(hasher.finish())
}

/// When each host was seen, how its clock stands, and its last values.
fn save_states(connection: &mut Conn, arrivals: &[Arriving], fresh: &[&Arriving]) -> Tx<()> {
    let mut hosts: BTreeMap<HostId, NewState<'_>> = BTreeMap::new();
    for arriving in arrivals {
        let (seen_ms, skew_ms) = (arriving.received_ms, arriving.skew_ms);
        let host = arriving.header.host.0.as_slice();
        let new = || NewState { host, seen_ms, skew_ms, last_at_ms: 0, last_values: Vec::new() };
        let state = hosts.entry(arriving.header.host).or_insert_with(new);
        if seen_ms >= state.seen_ms {
            (state.seen_ms, state.skew_ms) = (seen_ms, skew_ms);
        }
    }
    for arriving in fresh.iter().filter(|arriving| !arriving.urgent.last.is_empty()) {
        // An agent that names an impossible time must not keep its later values out.
        let at_ms = arriving.urgent.at_ms.saturating_add(arriving.shift_ms());
        let at_ms = at_ms.clamp(arriving.corrected_start_ms, arriving.end_ms());
        if let Some(state) = hosts.get_mut(&arriving.header.host).filter(|state| at_ms >= state.last_at_ms) {
            (state.last_at_ms, state.last_values) = (at_ms, last::encode(&arriving.urgent.last));
        }
    }
    let rows: Vec<NewState<'_>> = hosts.into_values().collect();
    many::write(connection, &STATES, &rows)?;
    Ok(())
}

fn load_known(
    connection: &mut Conn,
    store: &Store,
    arrivals: &[Arriving],
    trusted: bool,
) -> Tx<HashMap<HostId, Arc<Known>>> {
    let mut known = HashMap::new();
    let mut asked = BTreeSet::new();
    {
        let cache = store.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        for arriving in arrivals {
            let host = arriving.header.host;
            match cache.get(&host).filter(|_| trusted) {
                Some(what) => {
                    known.entry(host).or_insert_with(|| Arc::clone(what));
                }
                None => {
                    known.insert(host, Arc::default());
                    asked.insert(host);
                }
            }
        }
    }
    if asked.is_empty() {
        return Ok(known);
    }
    let ids: Vec<&[u8]> = asked.iter().map(|host| host.0.as_slice()).collect();
    let rows: Vec<(Vec<u8>, i64, Vec<u8>)> = entity::table
        .filter(entity::host.eq_any(&ids))
        .select((entity::host, entity::id, entity::record))
        .load(connection)?;
    for (host, id, record) in rows {
        // One that is damaged is as good as none: the agent is asked for it.
        let is_sound = Entity::decode(&record).is_ok();
        if let Some(known) = known.get_mut(&super::host_id(&host)?).filter(|_| is_sound) {
            Arc::make_mut(known).entities.insert(EntityId(super::unsigned(id)), hash_of(&record));
        }
    }
    let rows: Vec<(Vec<u8>, i64, i64, i64)> = series_group::table
        .filter(series_group::host.eq_any(&ids))
        .select((series_group::host, series_group::entity, series_group::layout, series_group::last_ms))
        .load(connection)?;
    for (host, id, layout, last_ms) in rows {
        if let Some(known) = known.get_mut(&super::host_id(&host)?) {
            let group = (EntityId(super::unsigned(id)), LayoutId(super::unsigned(layout)));
            Arc::make_mut(known).groups.insert(group, last_ms);
        }
    }
    Ok(known)
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Adds the layouts that are new, and returns those that this process did not know.
fn save_layouts(connection: &mut Conn, store: &Store, arrivals: &[Arriving]) -> Tx<Vec<(LayoutId, Arc<Layout>)>> {
    let mut said: BTreeMap<LayoutId, &Layout> = BTreeMap::new();
    let mut wanted: BTreeSet<LayoutId> = BTreeSet::new();
    for arriving in arrivals {
        // Hashing a layout costs more than knowing that all that the block names are known.
        if arriving.keys.iter().any(|(_, id)| store.layout(*id).is_none()) {
            let layouts = arriving.dictionary.layouts.iter().map(|layout| (layout.id(), layout));
            said.extend(layouts.filter(|(id, _)| store.layout(*id).is_none()));
        }
        wanted.extend(arriving.keys.iter().map(|(_, id)| *id).filter(|id| store.layout(*id).is_none()));
    }
    wanted.extend(said.keys());
    let mut learned = read::load_layouts(connection, wanted.iter().copied())?;
    let there: HashSet<LayoutId> = learned.iter().map(|(id, _)| *id).collect();
    for (id, new) in said.into_iter().filter(|(id, _)| !there.contains(id)) {
        let row = NewLayout { id: signed(id.0), bytes: &new.encode() };
        many::write(connection, &LAYOUTS, &[row])?;
        learned.push((id, Arc::new(new.clone())));
    }
    Ok(learned)
}

fn save_entities(connection: &mut Conn, arrivals: &[Arriving], known: &mut HashMap<HostId, Arc<Known>>) -> Tx<()> {
    // The last record of an entity in this group is the one to keep.
    let mut rows: BTreeMap<(HostId, EntityId), NewEntity<'_>> = BTreeMap::new();
    for arriving in arrivals {
        let host = &arriving.header.host;
        let known = known.entry(*host).or_default();
        for said in &arriving.dictionary.entities {
            let record = said.encode();
            let hash = hash_of(&record);
            if known.entities.get(&said.id) == Some(&hash) {
                continue;
            }
            Arc::make_mut(known).entities.insert(said.id, hash);
            let (first_ms, updated_ms) = (arriving.received_ms, arriving.received_ms);
            let row = NewEntity { host: host.0.as_slice(), id: signed(said.id.0), first_ms, updated_ms, record };
            rows.insert((*host, said.id), row);
        }
    }
    let rows: Vec<NewEntity<'_>> = rows.into_values().collect();
    for rows in rows.chunks(INSERT_ROWS_MAX) {
        many::write(connection, &ENTITIES, rows)?;
    }
    Ok(())
}

/// Which groups each host has, from when to when; the end is written once an hour.
fn save_groups(connection: &mut Conn, fresh: &[&Arriving], known: &mut HashMap<HostId, Arc<Known>>) -> Tx<()> {
    let mut spans: BTreeMap<(HostId, EntityId, LayoutId), (i64, i64)> = BTreeMap::new();
    for arriving in fresh {
        let header = &arriving.header;
        let (start_ms, end_ms) = (arriving.corrected_start_ms, arriving.end_ms());
        let known = known.entry(header.host).or_default();
        for (entity, layout) in &arriving.keys {
            if known.groups.get(&(*entity, *layout)).is_some_and(|last_ms| end_ms < last_ms + SEEN_LAG_MS) {
                continue;
            }
            let span = spans.entry((header.host, *entity, *layout)).or_insert((start_ms, end_ms));
            *span = (span.0.min(start_ms), span.1.max(end_ms));
        }
    }
    let mut rows = Vec::with_capacity(spans.len());
    for ((host, entity, layout), (first_ms, last_ms)) in &spans {
        Arc::make_mut(known.entry(*host).or_default()).groups.insert((*entity, *layout), *last_ms);
        rows.push(NewGroup {
            host: host.0.as_slice(),
            entity: signed(entity.0),
            layout: signed(layout.0),
            first_ms: *first_ms,
            last_ms: *last_ms,
        });
    }
    many::write(connection, &GROUPS, &rows)?;
    Ok(())
}

fn name_unknown(store: &Store, arrivals: &[Arriving], pushed: &mut Pushed) {
    let learned: HashSet<LayoutId> = pushed.layouts.iter().map(|(id, _)| *id).collect();
    for (arriving, outcome) in arrivals.iter().zip(&mut pushed.outcomes) {
        let Some(known) = pushed.known.get(&arriving.header.host) else { continue };
        let layouts: BTreeSet<LayoutId> = arriving.keys.iter().map(|(_, layout)| *layout).collect();
        let entities: BTreeSet<EntityId> = arriving.keys.iter().map(|(entity, _)| *entity).collect();
        outcome.unknown_layouts =
            layouts.into_iter().filter(|id| !learned.contains(id) && store.layout(*id).is_none()).collect();
        outcome.unknown_entities = entities.into_iter().filter(|id| !known.entities.contains_key(id)).collect();
    }
}
