//! Caches small JSON texts of a repository in one file, each under the ID that determines it: snapshots and manifests.
//! Must not require the file: a lost or damaged one is an empty one.
//!
//! Without it, each command would read every snapshot again: a request each if the repository is in a bucket. What an ID
//! stands for never changes, so an entry is never out of date.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::{Id, Repository};
use crate::sys::durable;

/// First bytes of the file, with the version of its format.
const MAGIC: &[u8] = b"kvmbackup json 1\n";
/// Compression of an entry.
const LEVEL: i32 = 1;
/// Largest entry in bytes; larger ones are not cached.
const MAX_ENTRY: usize = 1 << 20;
/// Fewest new entries for which the file is written. It is also not written for less than an eighth of its entries, because
/// each guest of a run adds one.
const MIN_ADDED: usize = 8;

/// The JSON texts of a repository that are known without reading it.
#[derive(Debug)]
pub struct JsonCache {
    path: PathBuf,
    stored: Vec<u8>,
    positions: HashMap<Id, Range<usize>>,
    added: Mutex<HashMap<Id, Vec<u8>>>,
}

impl JsonCache {
    /// Reads the file in this directory of caches.
    pub fn open(repository: &Repository, cache: &Path) -> JsonCache {
        let path = cache.join(repository.id().to_string()).join("json");
        let stored = match fs::read(&path) {
            Ok(stored) => stored,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "cannot read the cache");
                }
                Vec::new()
            }
        };
        let positions = positions(&stored).unwrap_or_default();
        JsonCache { path, stored, positions, added: Mutex::default() }
    }

    /// The text of an ID, if it is known.
    pub fn get(&self, id: &Id) -> Option<Vec<u8>> {
        if let Some(text) = self.added().get(id) {
            return Some(text.clone());
        }
        zstd::bulk::decompress(&self.stored[self.positions.get(id)?.clone()], MAX_ENTRY).ok()
    }

    /// Records a text.
    pub fn add(&self, id: Id, text: Vec<u8>) {
        if text.len() <= MAX_ENTRY {
            self.added().insert(id, text);
        }
    }

    fn added(&self) -> MutexGuard<'_, HashMap<Id, Vec<u8>>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the file if there is much to add. Only these entries stay.
    pub fn save(&self, needed: impl FnOnce() -> HashSet<Id>) {
        if let Err(error) = self.write(needed) {
            tracing::warn!(path = %self.path.display(), %error, "cannot write the cache");
        }
    }

    fn write(&self, needed: impl FnOnce() -> HashSet<Id>) -> io::Result<()> {
        let added = self.added();
        if added.len() < MIN_ADDED.max(self.positions.len() / 8) {
            return Ok(());
        }
        let needed = needed();
        durable::create_private_dir(self.path.parent().unwrap_or(&self.path))?;
        // Several processes may write at the same time, and each has a whole file.
        let aside = self.path.with_extension(format!("new-{}", std::process::id()));
        durable::remove(&aside)?;
        let mut file = Hashed { to: BufWriter::new(durable::create_private(&aside)?), hash: Sha256::new() };
        file.write(MAGIC)?;
        for (id, at) in self.positions.iter().filter(|(id, _)| needed.contains(id) && !added.contains_key(*id)) {
            file.entry(id, &self.stored[at.clone()])?;
        }
        for (id, text) in added.iter().filter(|(id, _)| needed.contains(id)) {
            file.entry(id, &zstd::bulk::compress(text, LEVEL)?)?;
        }
        let Hashed { mut to, hash } = file;
        to.write_all(&hash.finalize())?;
        to.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&aside, &self.path)
    }
}

struct Hashed {
    to: BufWriter<fs::File>,
    hash: Sha256,
}

impl Hashed {
    fn entry(&mut self, id: &Id, text: &[u8]) -> io::Result<()> {
        self.write(id.as_bytes())?;
        self.write(&(text.len() as u32).to_le_bytes())?;
        self.write(text)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }
}

/// Where each entry is; `None` for a damaged file.
fn positions(file: &[u8]) -> Option<HashMap<Id, Range<usize>>> {
    let (entries, hash) = file.split_last_chunk::<32>()?;
    if !entries.starts_with(MAGIC) || Sha256::digest(entries)[..] != hash[..] {
        return None;
    }
    let mut found = HashMap::new();
    let mut at = MAGIC.len();
    while at < entries.len() {
        let (id, rest) = entries[at..].split_first_chunk::<{ Id::BYTES }>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let start = entries.len() - rest.len();
        at = start.checked_add(length).filter(|end| *end <= entries.len())?;
        found.insert(Id::from_bytes(*id), start..at);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Restic;
    use super::*;

    #[test]
    fn entries_survive_until_the_file_is_damaged_or_they_are_not_needed() {
        let restic = Restic::new();
        let repository = Repository::init(restic.place(), Restic::PASSWORD).unwrap();
        let open = || JsonCache::open(&repository, &restic.path("cache"));
        let entry = |n: usize| (Id::of(&n.to_le_bytes()), format!("{{\"n\":{n}}}").into_bytes());
        let add = |cache: &JsonCache, numbers: Range<usize>| {
            numbers.map(entry).for_each(|(id, text)| cache.add(id, text));
        };
        let known = |numbers: Range<usize>| {
            let cache = open();
            numbers.map(entry).filter(|(id, text)| cache.get(id).as_ref() == Some(text)).count()
        };
        let ids = |numbers: Range<usize>| numbers.map(|n| entry(n).0).collect::<HashSet<_>>();
        let cache = open();
        add(&cache, 0..100);
        assert_eq!(cache.get(&entry(7).0), Some(entry(7).1));
        cache.save(|| ids(0..200));
        assert_eq!(known(0..200), 100);

        // Less than an eighth is not worth the write.
        let cache = open();
        add(&cache, 100..110);
        cache.save(|| unreachable!("nothing is written"));
        let cache = open();
        add(&cache, 100..120);
        cache.save(|| ids(50..200));
        assert_eq!((known(0..50), known(50..200)), (0, 70));

        let file = restic.path("cache").join(repository.id().to_string()).join("json");
        let good = fs::read(&file).unwrap();
        for bad in [&good[..good.len() - 1], &good[1..], b"", &[MAGIC, &[0xff; 80]].concat()] {
            fs::write(&file, bad).unwrap();
            assert_eq!(known(0..200), 0);
        }
        let mut flipped = good.clone();
        for at in (0..good.len()).step_by(97) {
            flipped[at] ^= 1;
            fs::write(&file, &flipped).unwrap();
            assert_eq!(known(0..200), 0);
            flipped[at] ^= 1;
        }
        let cache = open();
        add(&cache, 0..8);
        cache.save(|| ids(0..8));
        assert_eq!(known(0..200), 8);
    }
}
