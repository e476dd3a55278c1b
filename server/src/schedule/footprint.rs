//! The database's own disk, told as an agent would tell it: a small block of a host of its own goes the way of all
//! blocks, so that it is kept, plotted, forecast and judged by the same rules, on a site without an agent there too.

use forewarn_common::block::{
    Block, Dictionary, Entity, EntityKind, Group, Header, LastValue, Layout, Metric, Ticks, Urgent, round,
};
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId, random_u64};
use forewarn_common::metric::Id;

use super::Jobs;
use crate::intake::IntakeError;
use crate::model::host::Host;
use crate::store::{Room, StoreError};

/// What people call the host.
const NAME: &str = "forewarn-server";
/// Where the site keeps the host's id: one for all its servers.
pub(super) const SITE_VALUE: &str = "footprint_host";

/// Who tells, and how much was told.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    /// Host, epoch, number of the next block.
    told: Option<(HostId, u64, u64)>,
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Refused(format!("the size of the database was not told: {error}"))
}

impl Footprint {
    /// Measures and tells once.
    pub(super) async fn tell(&mut self, jobs: &Jobs, now_ms: i64) -> Result<(), StoreError> {
        let limit = Some(jobs.settings.store.size_bytes_max).filter(|bytes| *bytes > 0);
        let room = jobs.store.room(limit).await?;
        let (host, epoch, seq) = match self.told {
            Some(told) => told,
            None => (own_host(jobs, now_ms).await?, random_u64().map_err(failed)?, 0),
        };
        // Given up when it is not taken: the next one tells what is so then.
        self.told = Some((host, epoch, seq + 1));
        let step_ms = jobs.settings.store.measure_every_ms;
        let header = Header {
            host,
            epoch,
            seq,
            start_ms: now_ms,
            step_ms: u32::try_from(step_ms).unwrap_or(u32::MAX),
            ticks: 1,
            boot_id: [0; 16],
            boot_ms: clock::boot_ms(),
            closed_ms: now_ms,
        };
        let block = block(header, &room).map_err(failed)?;
        let taken = jobs.intake.take(host, block, Some(now_ms), now_ms).await.map_err(|error| match error {
            IntakeError::Store(error) => error,
            other => failed(other),
        })?;
        jobs.judge.urgent(host, &taken.urgent, taken.freshness, now_ms).await
    }
}

/// The host that stands for the site's servers, made when there is none. Nobody has its key.
async fn own_host(jobs: &Jobs, now_ms: i64) -> Result<HostId, StoreError> {
    let (made, half, other_half) =
        (HostId::random().map_err(failed)?, HostId::random().map_err(failed)?, HostId::random().map_err(failed)?);
    // Of servers that start together all take the first one's.
    let kept = jobs.store.site_put_if_absent(SITE_VALUE, made.0.to_vec()).await?;
    let id = HostId(kept.try_into().map_err(|_| failed("its host's id is damaged"))?);
    if jobs.store.host(id).await?.is_some() {
        return Ok(id);
    }
    let mut key_sha256 = [0; 32];
    key_sha256[..16].copy_from_slice(&half.0);
    key_sha256[16..].copy_from_slice(&other_half.0);
    let host = Host {
        id,
        name: NAME.to_owned(),
        component: String::new(),
        enrolled_ms: now_ms,
        seen_ms: 0,
        skew_ms: 0,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    jobs.store.host_enroll(&host, key_sha256).await?;
    Ok(id)
}

/// One tick of what is known: used bytes, and the share where the whole is known.
fn block(header: Header, room: &Room) -> Result<Vec<u8>, impl std::fmt::Display + use<>> {
    let entity = EntityId::of_host(header.host);
    let mut values = vec![(Id::FsUsed, room.used_bytes as f64)];
    if let Some(total_bytes) = room.total_bytes.filter(|bytes| *bytes > 0) {
        values.push((Id::FsTotal, total_bytes as f64));
        values.push((Id::FsUsedRatio, room.used_bytes as f64 / total_bytes as f64));
    }
    let value = |metric: Id, value: f64| round(value, metric.spec().decimals);
    let urgent = values.iter().filter(|(metric, _)| metric.spec().urgent);
    let last = urgent.map(|(metric, exact)| LastValue {
        entity,
        metric: *metric,
        instance: room.place.clone(),
        value: value(*metric, *exact),
    });
    let urgent = Urgent { at_ms: header.start_ms, last: last.collect(), ..Urgent::default() };
    let layout = Layout { metrics: values.iter().map(|(metric, _)| Metric::of(*metric, &room.place)).collect() };
    let columns = values.iter().map(|(metric, exact)| vec![value(*metric, *exact)]).collect();
    let record = Entity {
        id: entity,
        kind: EntityKind::Host,
        name: NAME.to_owned(),
        component: String::new(),
        attributes: Vec::new(),
    };
    let groups = vec![Group { entity, layout: layout.id(), ticks: Ticks::all(1), columns }];
    let dictionary = Dictionary { layouts: vec![layout.clone()], entities: vec![record] };
    Block { header, urgent, dictionary, groups }.encode(|id| (id == layout.id()).then_some(&layout))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn told(total_bytes: Option<i64>) -> Block {
        let header = Header {
            host: HostId([3; 16]),
            epoch: 1,
            seq: 0,
            start_ms: 1_000_000,
            step_ms: 60_000,
            ticks: 1,
            boot_id: [0; 16],
            boot_ms: 5,
            closed_ms: 1_000_000,
        };
        let room = Room { place: "/var/lib/forewarn".to_owned(), used_bytes: 900_000, total_bytes };
        let bytes = block(header, &room).map_err(|error| error.to_string()).unwrap();
        Block::decode(&bytes, |_| None).unwrap().0
    }

    #[test]
    fn a_share_is_told_only_where_the_whole_is_known() {
        let ratio = |block: &Block| {
            let last = block.urgent.last.iter().find(|last| last.metric == Id::FsUsedRatio);
            last.map(|last| (last.instance.clone(), last.value))
        };
        let known = told(Some(1_000_000));
        assert_eq!(ratio(&known), Some(("/var/lib/forewarn".to_owned(), 0.9)));
        assert_eq!(known.groups[0].columns, [[900_000.0], [1_000_000.0], [0.9]]);
        let unknown = told(None);
        assert_eq!(ratio(&unknown), None);
        assert_eq!(unknown.groups[0].columns, [[900_000.0]]);
    }
}
