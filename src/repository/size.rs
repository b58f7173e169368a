//! Measures a repository: its objects, their sizes, and the number of blobs. Must not read the contents of packs.

use std::path::Path;
use std::time::Duration;

use super::{Catalog, Error, Kind, Repository, SharedLock, Timing};
use crate::sys::signals::Cancel;

/// The packs of a repository, and the size of everything in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packs {
    /// Number of packs.
    pub count: u64,
    /// Bytes of all objects.
    pub stored_bytes: u64,
}

impl Packs {
    /// Lists all objects. Takes no lock, so other processes may add or remove some at the same time.
    pub fn of(repository: &Repository) -> Result<Packs, Error> {
        let mut found = Packs { count: 0, stored_bytes: 0 };
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Config) {
            let listed = repository.list(kind)?;
            found.stored_bytes += listed.iter().map(|(_, size)| size).sum::<u64>();
            if kind == Kind::Pack {
                found.count = listed.len() as u64;
            }
        }
        Ok(found)
    }
}

/// Number of blobs that the indexes list. Updates the cache in this directory. Waits up to `wait` while another process
/// has an exclusive lock.
pub fn count_blobs(repository: &Repository, cache: &Path, wait: Duration, cancel: &Cancel) -> Result<u64, Error> {
    let lock = SharedLock::take(repository, Timing::waiting(wait), cancel)?;
    let count = Catalog::open(repository, cache)?.stored_blobs();
    lock.release()?;
    Ok(count)
}
