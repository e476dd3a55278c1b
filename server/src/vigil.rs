//! The watch over the database itself. While it answers, this server's beat is counted in it and `share` learns who
//! lives; when it is gone or takes nothing, the fallback channel of the settings hears so once, and once when it is back.
//!
//! Nothing here needs the database to speak, and nothing is judged. Without a database the servers of a site cannot
//! agree who speaks: each waits its turn, the longest running first, and keeps still when one before it still answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forewarn_common::clock;
use forewarn_common::keyword::Severity;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::model::channel::Channel;
use crate::model::server::Peer;
use crate::notify::{Notice, Notifier, NotifyError, Site, check_url};
use crate::settings::Settings;
use crate::share::Share;
use crate::store::{Store, StoreError};

/// How often the beat is counted.
const BEAT_EVERY: Duration = Duration::from_secs(2);
/// Without an answer for this long this server no longer owns anything; less than others wait before they take over.
const LOST_AFTER_MS: i64 = 6_000;
/// The database is gone when it did not answer for this long: its restart is no news.
const GONE_AFTER_MS: i64 = 10_000;
/// It is back when it answered for this long.
const BACK_AFTER_MS: i64 = 5_000;
/// How much longer each server waits than the one before it.
const TURN_MS: i64 = 15_000;
/// After a message that did not get through.
const RETRY_MS: i64 = 10_000;
/// How long another server may take to answer.
const ELDER_ANSWERS_FOR: Duration = Duration::from_secs(3);
/// In the data directory while "gone" was said and "back" was not, so that a restart says neither twice.
const MARK_FILE: &str = "database-gone";

/// What the database has done so far. Pure: times are handed in.
#[derive(Debug, Default)]
struct Course {
    failing_since_ms: Option<i64>,
    well_since_ms: Option<i64>,
    said_gone: bool,
    retry_at_ms: i64,
}

impl Course {
    /// Takes in whether the database answers; what is to be said now, if anything.
    fn look(&mut self, answers: bool, elders: usize, now_ms: i64) -> Option<Notice> {
        if answers {
            self.failing_since_ms = None;
        } else {
            self.well_since_ms = None;
        }
        let since = if answers { &mut self.well_since_ms } else { &mut self.failing_since_ms };
        let for_ms = now_ms - *since.get_or_insert(now_ms);
        let turn_ms = GONE_AFTER_MS + i64::try_from(elders).unwrap_or(0) * TURN_MS;
        let notice = match (answers, self.said_gone) {
            (false, false) if for_ms >= turn_ms => Notice::DatabaseGone,
            (true, true) if for_ms >= BACK_AFTER_MS => Notice::DatabaseBack,
            _ => return None,
        };
        (now_ms >= self.retry_at_ms).then_some(notice)
    }

    fn is_lost(&self, now_ms: i64) -> bool {
        self.failing_since_ms.is_some_and(|since_ms| now_ms - since_ms >= LOST_AFTER_MS)
    }
}

/// The fallback channel and how to reach it.
pub struct Voice {
    channel: Option<Channel>,
    notifier: Notifier,
    site: Site,
    mark: PathBuf,
}

impl Voice {
    /// The voice that the settings name.
    ///
    /// # Errors
    /// The channel's address is none that may be sent to, or the client cannot be made.
    pub fn new(settings: &Settings, notifier: Notifier, site: Site) -> Result<Self, NotifyError> {
        let said = &settings.fallback_channel;
        let channel = said.kind().map(|kind| Channel {
            id: "fallback".into(),
            name: "fallback_channel".into(),
            kind,
            url: said.url.clone(),
            secret: said.secret.clone(),
            language: said.language,
            severity_min: Severity::Info,
            send: true,
        });
        if let Some(channel) = &channel {
            let url = url::Url::parse(&channel.url).map_err(|_| NotifyError::Url)?;
            check_url(&url, settings.notify.allow_loopback)?;
        }
        Ok(Self { channel, notifier, site, mark: settings.data_dir.join(MARK_FILE) })
    }

    /// True when it is said, or when nobody is to be told.
    async fn say(&self, notice: Notice) -> bool {
        let told = match &self.channel {
            None => true,
            Some(channel) => {
                let (told, answer) = self.notifier.send_notice(channel, notice, &self.site, clock::wall_ms()).await;
                if !told {
                    tracing::error!(%answer, "the fallback channel did not take a message about the database");
                }
                told
            }
        };
        if told {
            self.remember(notice);
        }
        told
    }

    fn remember(&self, notice: Notice) {
        let kept = match notice {
            Notice::DatabaseGone => std::fs::write(&self.mark, "said, and not yet that it is back\n"),
            _ => std::fs::remove_file(&self.mark),
        };
        if let Err(error) = kept {
            tracing::warn!(%error, file = %self.mark.display(), "a restart may say again that the database is gone or back");
        }
    }

    fn has_said_gone(&self) -> bool {
        self.mark.exists()
    }

    /// Says that the database is gone when a server cannot even start for it, once over all its starts.
    pub async fn say_at_start(&self, error: &StoreError) {
        if matches!(error, StoreError::Unavailable(_)) && !self.has_said_gone() {
            self.say(Notice::DatabaseGone).await;
        }
    }
}

/// Who this server is among those of its database.
///
/// # Errors
/// The database does not answer.
pub async fn introduce(store: &Store, settings: &Settings, id: &str, now_ms: i64) -> Result<Peer, StoreError> {
    let port = settings.https.listen.port();
    let named = settings.https.names.iter().find_map(|name| name.parse().ok());
    let address = match named {
        Some(address) => Some(address),
        None => store.own_address().await?,
    };
    let address = address.map(|address| SocketAddr::new(address, port).to_string()).unwrap_or_default();
    let own = Peer { id: id.to_owned(), started_ms: now_ms, beat: 0, address };
    if store.is_shared() {
        // Nobody else listens there: that was this server before its restart.
        let peers = store.server_beat(&own).await?;
        let before = peers.into_iter().filter(|peer| peer.id != own.id && peer.address == own.address);
        let before: Vec<String> = before.filter(|peer| !peer.address.is_empty()).map(|peer| peer.id).collect();
        if !before.is_empty() {
            store.servers_forget(before).await?;
        }
    }
    Ok(own)
}

/// Watches until `stop` turns true; then this server leaves the list of the living.
pub async fn keep(store: Store, share: Arc<Share>, own: Peer, voice: Voice, mut stop: watch::Receiver<bool>) {
    let mut course = Course { said_gone: voice.has_said_gone(), ..Course::default() };
    loop {
        // A question that hangs is not asked again beside itself: each would hold a connection.
        let question = beat(&store, &share, &own);
        tokio::pin!(question);
        loop {
            let (answers, done) = tokio::select! {
                result = &mut question => (result.is_ok(), true),
                () = tokio::time::sleep(BEAT_EVERY) => (false, false),
                () = stopping(&mut stop) => {
                    leave(&store, &share, &own).await;
                    return;
                }
            };
            note(&mut course, &voice, &share, answers).await;
            if done {
                break;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(BEAT_EVERY) => {}
            () = stopping(&mut stop) => {
                leave(&store, &share, &own).await;
                return;
            }
        }
    }
}

async fn stopping(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn beat(store: &Store, share: &Share, own: &Peer) -> Result<(), StoreError> {
    store.ping_write().await?;
    if !store.is_shared() {
        return store.ping().await;
    }
    let gone = share.observe(store.server_beat(own).await?, clock::boot_ms());
    if !gone.is_empty() {
        tracing::warn!(servers = ?gone, "servers of this site are gone, the others take over their work");
        store.servers_forget(gone).await?;
    }
    Ok(())
}

async fn leave(store: &Store, share: &Share, own: &Peer) {
    share.lose();
    if store.is_shared()
        && let Err(error) = store.servers_forget(vec![own.id.clone()]).await
    {
        tracing::warn!(%error, "the other servers take over some seconds later: this one could not take its leave");
    }
}

async fn note(course: &mut Course, voice: &Voice, share: &Share, answers: bool) {
    let now_ms = clock::boot_ms();
    let elders = share.elders();
    let notice = course.look(answers, elders.len(), now_ms);
    if course.is_lost(now_ms) {
        share.lose();
    }
    let Some(notice) = notice else { return };
    if notice == Notice::DatabaseGone && one_answers(&elders).await {
        // It speaks for all. Should it die before it did, the next look says so.
        course.retry_at_ms = clock::boot_ms() + RETRY_MS;
        return;
    }
    if voice.say(notice).await {
        course.said_gone = notice == Notice::DatabaseGone;
        if course.said_gone {
            tracing::error!("the database is gone; agents keep what they measure until it is back");
        } else {
            tracing::info!("the database is back");
        }
    } else {
        course.retry_at_ms = clock::boot_ms() + RETRY_MS;
    }
}

/// Whether one of these servers takes connections. One whose address is not known counts as dead: a message twice is
/// better than none.
async fn one_answers(peers: &[Peer]) -> bool {
    let ask = |peer: &Peer| {
        let address = peer.address.parse::<SocketAddr>();
        async move {
            let Ok(address) = address else { return false };
            matches!(tokio::time::timeout(ELDER_ANSWERS_FOR, TcpStream::connect(address)).await, Ok(Ok(_)))
        }
    };
    futures_util::future::join_all(peers.iter().map(ask)).await.contains(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said when the database answers or not, second by second, and every message gets through.
    fn said(answers: impl Fn(i64) -> bool, elders: usize, seconds: i64) -> Vec<(i64, Notice)> {
        let mut course = Course::default();
        let mut said = Vec::new();
        for second in 0..seconds {
            if let Some(notice) = course.look(answers(second), elders, second * 1000) {
                course.said_gone = notice == Notice::DatabaseGone;
                said.push((second, notice));
            }
        }
        said
    }

    #[test]
    fn an_outage_is_said_once_and_its_end_once() {
        let outage = |second| !(20..3000).contains(&second);
        assert_eq!(said(outage, 0, 4000), [(30, Notice::DatabaseGone), (3005, Notice::DatabaseBack)]);
        // The second of two servers has its turn later.
        assert_eq!(said(outage, 1, 4000)[0], (45, Notice::DatabaseGone));
    }

    #[test]
    fn a_restart_and_a_flutter_are_no_news() {
        assert_eq!(said(|second| !(20..28).contains(&second), 0, 100), []);
        assert_eq!(said(|second| second % 9 < 4, 0, 1000), []);
        // Gone, then it flutters: it is not back before it answers for a while.
        let flutter = |second| second < 20 || second % 4 == 0 || second > 200;
        assert_eq!(said(flutter, 0, 300), []);
        let down_then_flutter =
            |second| !(20..40).contains(&second) && (second < 20 || second % 4 == 0 || second > 200);
        assert_eq!(said(down_then_flutter, 0, 300), [(30, Notice::DatabaseGone), (205, Notice::DatabaseBack)]);
    }

    #[test]
    fn what_was_not_owned_for_sure_is_not_owned() {
        let mut course = Course::default();
        course.look(true, 0, 0);
        course.look(false, 0, 1000);
        assert!(!course.is_lost(6_999) && course.is_lost(7_000));
        course.look(true, 0, 8_000);
        assert!(!course.is_lost(8_000));
    }
}
