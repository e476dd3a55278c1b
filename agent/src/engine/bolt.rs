//! Reads a bolt database, as Podman before 5 keeps its state in, without taking part in its locks.
//!
//! The writer never changes a page that the newest state refers to, so a whole copy of the file is sound unless it was
//! written to twice meanwhile; whatever does not fit together is an error, and the next look takes another copy.

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEAD_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;
/// Where the meta record of a meta page is, and its bytes that are summed.
const META_AT: usize = 16;
const META_BYTES: usize = 56;
const FLAG_BRANCH: u16 = 1;
const FLAG_LEAF: u16 = 2;
const FLAG_BUCKET: u32 = 1;
const PAGE_BYTES: std::ops::RangeInclusive<usize> = 512..=65_536;
/// A tree of this depth would hold more than any disk.
const DEPTH_MAX: usize = 16;
/// Entries of one bucket: a host has some thousand containers.
const ENTRIES_MAX: usize = 100_000;

/// The file is damaged, or was written to while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the database does not fit together at {0}; it is read again at the next look")]
pub(super) struct Torn(&'static str);

/// A database as bytes.
#[derive(Debug)]
pub(super) struct Database<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    root: u64,
}

/// A set of keys with values or further buckets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket<'a> {
    page: &'a [u8],
}

impl<'a> Database<'a> {
    /// The newest whole state in `bytes`.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, Torn> {
        // The second meta page follows the first by one page, whose size only a meta record tells.
        let first = meta(bytes, 0);
        let size = first.map_or(4096, |meta| meta.page_bytes);
        let newest = [first, meta(bytes, size)].into_iter().flatten().max_by_key(|meta| meta.transaction);
        let Meta { page_bytes, root, .. } = newest.ok_or(Torn("its head"))?;
        Ok(Self { bytes, page_bytes, root })
    }

    /// The outermost bucket.
    ///
    /// # Errors
    /// The database does not fit together.
    pub(super) fn root(&self) -> Result<Bucket<'a>, Torn> {
        self.page(self.root).map(|page| Bucket { page })
    }

    fn page(&self, id: u64) -> Result<&'a [u8], Torn> {
        let begin =
            usize::try_from(id).ok().and_then(|id| id.checked_mul(self.page_bytes)).ok_or(Torn("a page's place"))?;
        let page = self.bytes.get(begin..).ok_or(Torn("a page's place"))?;
        let further = u32_at(page, 12).ok_or(Torn("a page's head"))? as usize;
        let bytes = self.page_bytes.saturating_mul(further.saturating_add(1));
        page.get(..bytes).ok_or(Torn("a page's length"))
    }

    /// The bucket inside `bucket` under `key`; `None` when there is none.
    ///
    /// # Errors
    /// The database does not fit together.
    pub(super) fn bucket(&self, bucket: Bucket<'a>, key: &[u8]) -> Result<Option<Bucket<'a>>, Torn> {
        let mut found = None;
        self.each(bucket, &mut |name, value| {
            if name == key {
                found = value.bucket;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Shows every entry of a bucket.
    ///
    /// # Errors
    /// The database does not fit together, or `see` says so.
    pub(super) fn each(
        &self,
        bucket: Bucket<'a>,
        see: &mut dyn FnMut(&'a [u8], Value<'a>) -> Result<(), Torn>,
    ) -> Result<(), Torn> {
        let mut left = ENTRIES_MAX;
        self.walk(bucket.page, DEPTH_MAX, &mut left, see)
    }

    fn walk(
        &self,
        page: &'a [u8],
        depth: usize,
        left: &mut usize,
        see: &mut dyn FnMut(&'a [u8], Value<'a>) -> Result<(), Torn>,
    ) -> Result<(), Torn> {
        let (flags, count) = (u16_at(page, 8), u16_at(page, 10));
        let (flags, count) = flags.zip(count).ok_or(Torn("a page's head"))?;
        for at in 0..usize::from(count) {
            *left = left.checked_sub(1).ok_or(Torn("too many entries"))?;
            let place = PAGE_HEAD_BYTES + at * ELEMENT_BYTES;
            let element = page.get(place..).ok_or(Torn("an element"))?;
            let word = |at| u32_at(element, at).ok_or(Torn("an element"));
            if flags & FLAG_BRANCH != 0 {
                let deeper = depth.checked_sub(1).ok_or(Torn("its depth"))?;
                let child = self.page(u64_at(element, 8).ok_or(Torn("an element"))?)?;
                self.walk(child, deeper, left, see)?;
            } else if flags & FLAG_LEAF != 0 {
                let (kind, begin, key, value) = (word(0)?, word(4)? as usize, word(8)? as usize, word(12)? as usize);
                let data = element.get(begin..).ok_or(Torn("a key"))?;
                let (key, data) = data.split_at_checked(key).ok_or(Torn("a key"))?;
                let bytes = data.get(..value).ok_or(Torn("a value"))?;
                let bucket = if kind & FLAG_BUCKET != 0 { Some(self.inner(bytes)?) } else { None };
                see(key, Value { bytes, bucket })?;
            } else {
                return Err(Torn("a page's kind"));
            }
        }
        Ok(())
    }

    /// A bucket as a value: its root page's number, or zero and the page itself.
    fn inner(&self, value: &'a [u8]) -> Result<Bucket<'a>, Torn> {
        let page = match u64_at(value, 0).ok_or(Torn("a bucket"))? {
            0 => value.get(ELEMENT_BYTES..).ok_or(Torn("a bucket"))?,
            root => self.page(root)?,
        };
        Ok(Bucket { page })
    }
}

/// What stands under a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a> {
    /// As bytes.
    pub(super) bytes: &'a [u8],
    /// As a bucket, if it is one.
    pub(super) bucket: Option<Bucket<'a>>,
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    page_bytes: usize,
    root: u64,
    transaction: u64,
}

fn meta(bytes: &[u8], page_at: usize) -> Option<Meta> {
    let meta = bytes.get(page_at.checked_add(META_AT)?..)?;
    let summed = meta.get(..META_BYTES)?;
    let is_sound = u32_at(meta, 0)? == MAGIC && u32_at(meta, 4)? == VERSION && u64_at(meta, META_BYTES)? == fnv(summed);
    let page_bytes = usize::try_from(u32_at(meta, 8)?).ok().filter(|bytes| PAGE_BYTES.contains(bytes))?;
    is_sound.then_some(Meta { page_bytes, root: u64_at(meta, 16)?, transaction: u64_at(meta, 48)? })
}

/// FNV-1a of 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads bytes as a database: for fuzz targets.
pub(super) fn read_every_way(bytes: &[u8]) -> usize {
    let mut seen = 0;
    let _ = Database::of(bytes).and_then(|database| {
        let root = database.root()?;
        database.each(root, &mut |key, value| {
            seen += key.len() + value.bytes.len();
            let Some(bucket) = value.bucket else { return Ok(()) };
            database.each(bucket, &mut |key, value| {
                seen += key.len() + value.bytes.len();
                Ok(())
            })
        })
    });
    seen
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: usize = 4096;

    /// A leaf page of these entries; the flag says that the value is a bucket.
    fn leaf(entries: &[(u32, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut page = vec![0; 8];
        page.extend(FLAG_LEAF.to_le_bytes());
        page.extend(u16::try_from(entries.len()).unwrap().to_le_bytes());
        page.extend([0; 4]);
        let mut data = Vec::new();
        for (at, (flag, key, value)) in entries.iter().enumerate() {
            let begin = (entries.len() - at) * ELEMENT_BYTES + data.len();
            for word in [*flag, begin as u32, key.len() as u32, value.len() as u32] {
                page.extend(word.to_le_bytes());
            }
            data.extend([key.as_slice(), value].concat());
        }
        page.extend(data);
        page
    }

    /// A database as the writer makes it: `ctr` → id → key → value, the inner buckets inline, on a root below a branch.
    pub(crate) fn database(containers: &[(&str, Vec<(&str, String)>)]) -> Vec<u8> {
        let inline = |page: Vec<u8>| [vec![0; 16], page].concat();
        let ids = containers.iter().map(|(id, values)| {
            let values: Vec<_> =
                values.iter().map(|(key, value)| (0, key.as_bytes().to_vec(), value.clone().into_bytes())).collect();
            (FLAG_BUCKET, id.as_bytes().to_vec(), inline(leaf(&values)))
        });
        let mut ids = leaf(&ids.collect::<Vec<_>>());
        let further = ids.len() / PAGE;
        ids[12..16].copy_from_slice(&(further as u32).to_le_bytes());
        ids.resize((further + 1) * PAGE, 0);
        let mut names = leaf(&[
            (FLAG_BUCKET, b"all-ctrs".to_vec(), inline(leaf(&[]))),
            (FLAG_BUCKET, b"ctr".to_vec(), [4_u64.to_le_bytes(), [0; 8]].concat()),
        ]);
        names.resize(PAGE, 0);
        let mut branch = vec![0; 8];
        branch.extend(FLAG_BRANCH.to_le_bytes());
        branch.extend([1, 0, 0, 0, 0, 0]);
        branch.extend([16_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat());
        branch.extend(3_u64.to_le_bytes());
        branch.resize(PAGE, 0);
        let meta = |transaction: u64, root: u64| {
            let mut meta: Vec<u8> =
                [MAGIC, VERSION, PAGE as u32, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
            meta.extend([root, 0, 9, 9, transaction].iter().flat_map(|word| word.to_le_bytes()));
            let sum = fnv(&meta);
            let mut page = [vec![0; META_AT], meta, sum.to_le_bytes().to_vec()].concat();
            page.resize(PAGE, 0);
            page
        };
        [meta(7, 77), meta(8, 2), branch, names, ids].concat()
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, String, String)>, Torn> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let database = Database::of(bytes)?;
        let containers = database.bucket(database.root()?, b"ctr")?.ok_or(Torn("no ctr"))?;
        let mut all = Vec::new();
        database.each(containers, &mut |id, container| {
            database.each(container.bucket.ok_or(Torn("no bucket"))?, &mut |key, value| {
                all.push((text(id), text(key), text(value.bytes)));
                Ok(())
            })
        })?;
        Ok(all)
    }

    #[test]
    fn the_newest_state_is_read_through_branches_inner_buckets_and_long_pages() {
        let long = "x".repeat(3 * PAGE);
        let bytes = database(&[
            ("a", vec![("config", "1".into()), ("state", long.clone())]),
            ("b", vec![("config", "2".into())]),
        ]);
        let all = read(&bytes).unwrap();
        let entry = |id: &str, key: &str, value: &str| (id.to_owned(), key.to_owned(), value.to_owned());
        assert_eq!(all, [entry("a", "config", "1"), entry("a", "state", &long), entry("b", "config", "2")]);
        let mut older = bytes.clone();
        older[PAGE + META_AT + 60] ^= 1;
        assert!(read(&older).is_err(), "the older state's root is gone, which must not look like no containers");
        assert!(read(&[]).is_err());
    }

    proptest! {
        #[test]
        fn a_damaged_or_cut_database_never_panics_and_never_runs_away(at in 0_usize..20_480, byte: u8, end in 0_usize..20_480) {
            let mut bytes = database(&[("a", vec![("config", "1".into()), ("state", "2".into())])]);
            let last = bytes.len() - 1;
            bytes[at.min(last)] = byte;
            let _ = read_every_way(&bytes);
            bytes.truncate(end);
            let _ = read_every_way(&bytes);
        }
    }
}
