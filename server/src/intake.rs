//! What arrives: a block is checked, its urgent section opened, and it is committed together with the blocks of
//! other agents. It is acknowledged only after it is durable. Of the samples only the names of their groups are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use forewarn_common::block::{DecodeError, RawBlock, Urgent};
use forewarn_common::id::HostId;
use forewarn_common::limit;
use forewarn_common::wire::PushReply;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Duration, Instant, timeout_at};

use crate::judge::Freshness;
use crate::store::{Arriving, PushOutcome, Store, StoreError};

/// How long a commit waits for the blocks of other agents.
const GATHER: Duration = Duration::from_millis(15);
/// So many blocks are not kept waiting for more: what a commit costs by itself is well divided.
const GROUP_BLOCKS_ENOUGH: usize = 64;
/// Blocks of one commit.
const GROUP_BLOCKS_MAX: usize = 512;
/// Bytes of one commit: MySQL's default max_allowed_packet is 16 MiB or more.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// Why a block is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The bytes are not a sound block.
    #[error(transparent)]
    Block(#[from] DecodeError),
    /// The block says another host than the agent's key.
    #[error("the block is of host {said}, but this key belongs to host {known}")]
    Host {
        /// What the block says.
        said: HostId,
        /// What the key says.
        known: HostId,
    },
    /// The database does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The block can never be stored.
    #[error("{0}")]
    Refused(&'static str),
    /// The server is stopping.
    #[error("the server is stopping; send it again")]
    Stopping,
}

/// What was taken.
#[derive(Debug)]
pub struct Taken {
    /// The answer for the agent, without the configuration's version.
    pub reply: PushReply,
    /// The urgent section.
    pub urgent: Urgent,
    /// What of it is news.
    pub freshness: Freshness,
}

struct Waiting {
    block: Arriving,
    since: Instant,
    answer: oneshot::Sender<Result<PushOutcome, StoreError>>,
}

/// The door for blocks. Clones share one committer.
#[derive(Clone)]
pub struct Intake {
    store: Store,
    queue: mpsc::Sender<Waiting>,
    waiting: Arc<Crowd>,
}

/// How many blocks wait, and the bell for when they are enough. Ringing for every block would wake the committer a
/// hundred times a commit.
#[derive(Default)]
struct Crowd {
    blocks: AtomicUsize,
    enough: Notify,
}

impl Crowd {
    fn join(&self) {
        if self.blocks.fetch_add(1, Ordering::Relaxed) + 1 == GROUP_BLOCKS_ENOUGH {
            self.enough.notify_one();
        }
    }

    fn is_enough(&self) -> bool {
        self.blocks.load(Ordering::Relaxed) >= GROUP_BLOCKS_ENOUGH
    }

    fn leave(&self, blocks: usize) {
        self.blocks.fetch_sub(blocks, Ordering::Relaxed);
    }
}

impl Intake {
    /// Starts the committer on the current runtime.
    #[must_use]
    pub fn start(store: Store, in_flight_max: usize) -> Self {
        let (queue, arriving) = mpsc::channel(in_flight_max);
        let waiting = Arc::new(Crowd::default());
        tokio::spawn(commit_groups(store.clone(), arriving, Arc::clone(&waiting)));
        Self { store, queue, waiting }
    }

    /// Checks a block of `host`, stores it and says what to answer.
    /// `sent_wall_ms` is the agent's clock when it sent, if it said so.
    ///
    /// # Errors
    /// The block is not sound, not this host's, or the database does not take it; then nothing of it is stored.
    pub async fn take(
        &self,
        host: HostId,
        bytes: Vec<u8>,
        sent_wall_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<Taken, IntakeError> {
        let raw = RawBlock::parse(&bytes)?;
        let header = raw.header;
        if header.host != host {
            return Err(IntakeError::Host { said: header.host, known: host });
        }
        let urgent = raw.urgent()?;
        let dictionary = raw.dictionary()?;
        let groups = raw.group_keys()?;
        let columns = |id| {
            // What is known is asked first: a layout's id is a hash.
            let own = || dictionary.layouts.iter().find(|layout| layout.id() == id).map(|layout| layout.metrics.len());
            self.store.columns(id).or_else(own).unwrap_or(0)
        };
        let values = groups.iter().map(|(_, layout, ticks)| (columns(*layout) * ticks) as i64).sum();
        let keys = groups.iter().map(|(entity, layout, _)| (*entity, *layout)).collect();
        let skew_ms = sent_wall_ms.map_or(0, |sent| sent.saturating_sub(now_ms));
        let skewed = skew_ms.abs() > limit::CLOCK_SKEW_MS_MAX;
        let start_ms = if skewed { header.start_ms.saturating_sub(skew_ms) } else { header.start_ms };
        let (answer, outcome) = oneshot::channel();
        let block = Arriving {
            header,
            corrected_start_ms: start_ms,
            skew_ms,
            received_ms: now_ms,
            values,
            keys,
            dictionary,
            urgent: urgent.clone(),
            bytes,
        };
        // Nothing is awaited between the two, so that each that is counted is there.
        let place = self.queue.reserve().await.map_err(|_| IntakeError::Stopping)?;
        self.waiting.join();
        place.send(Waiting { block, since: Instant::now(), answer });
        let outcome = outcome.await.map_err(|_| IntakeError::Stopping)??;
        if let Some(reason) = outcome.refused {
            return Err(IntakeError::Refused(reason));
        }
        let reply = PushReply {
            now_ms,
            unknown_layouts: outcome.unknown_layouts,
            unknown_entities: outcome.unknown_entities,
            config_version: 0,
        };
        // A block that waited in a spool tells of the past, or was made by a clock that has been put right since: its
        // values are no news.
        let fresh = !skewed && (now_ms - urgent.at_ms).abs() < limit::CLOCK_SKEW_MS_MAX;
        Ok(Taken { reply, urgent, freshness: Freshness { values: fresh, repeated: !outcome.stored } })
    }
}

async fn commit_groups(store: Store, mut arriving: mpsc::Receiver<Waiting>, waiting: Arc<Crowd>) {
    while let Some(first) = arriving.recv().await {
        // What came while the last group was committed has waited already.
        let deadline = first.since + GATHER;
        if !waiting.is_enough() {
            let _ = timeout_at(deadline, waiting.enough.notified()).await;
        }
        let mut bytes = first.block.bytes.len();
        let mut group = vec![first];
        while group.len() < GROUP_BLOCKS_MAX && bytes < GROUP_BYTES_MAX {
            let Ok(next) = arriving.try_recv() else { break };
            bytes += next.block.bytes.len();
            group.push(next);
        }
        waiting.leave(group.len());
        let (blocks, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|waiting| (waiting.block, waiting.answer)).unzip();
        let blocks = Arc::new(blocks);
        match store.push_group(Arc::clone(&blocks)).await {
            Err(error) if answers.len() > 1 && !matches!(error, StoreError::Unavailable(_)) => {
                // One block may have spoilt the group: each on its own, so that only that one is refused.
                tracing::warn!(%error, blocks = blocks.len(), "a group of blocks was not committed, each is tried on its own");
                for (block, answer) in blocks.iter().zip(answers) {
                    answer_all(vec![answer], store.push(vec![block.clone()]).await);
                }
            }
            outcomes => answer_all(answers, outcomes),
        }
    }
}

fn answer_all(
    answers: Vec<oneshot::Sender<Result<PushOutcome, StoreError>>>,
    outcomes: Result<Vec<PushOutcome>, StoreError>,
) {
    match outcomes {
        Ok(outcomes) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                // The agent may have hung up: it sends again, and the receipt covers it.
                let _ = answer.send(Ok(outcome));
            }
        }
        Err(error) => {
            let text = error.to_string();
            for answer in answers {
                let again = match &error {
                    StoreError::Unavailable(_) => StoreError::Unavailable(text.clone()),
                    StoreError::Conflict => StoreError::Conflict,
                    StoreError::Busy => StoreError::Busy,
                    _ => StoreError::Setup(text.clone()),
                };
                let _ = answer.send(Err(again));
            }
        }
    }
}
