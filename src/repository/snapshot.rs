//! Defines snapshots as restic writes them; a snapshot makes a tree a restore point. Must not know domains, except by
//! name.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Error, Id, JsonCache, Kind, Object, Repository};
use crate::sys::at_once::at_once;

/// Tag of the restore points of this program.
pub const TAG: &str = "kvmbackup";

/// Number of snapshots that are read at once.
const READERS: usize = 16;

/// Limit of [`Snapshot::facts`] in bytes.
const MAX_FACTS: usize = 64 << 10;

/// A restore point as restic stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Time of the restore point.
    pub time: DateTime<Utc>,
    /// ID of the snapshot that it builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// ID of its root directory.
    pub tree: Id,
    /// Saved paths: `/NAME`.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Name of the domain, so that restic groups by it.
    #[serde(default)]
    pub hostname: String,
    /// User that made the backup.
    #[serde(default)]
    pub username: String,
    /// Identical for all restore points of a domain; otherwise, restic would not group them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Program and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_version: Option<String>,
    /// Counts that restic lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Facts that differ between restore points, and would cost a tree each time. restic ignores them, and drops them
    /// when it copies a snapshot or changes its tags, so a restore must not need them.
    #[serde(default, rename = "kvmbackup", skip_serializing_if = "Option::is_none")]
    pub facts: Option<serde_json::Value>,
}

/// Size and cost of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Summary {
    /// Start of the backup.
    pub backup_start: DateTime<Utc>,
    /// End of the backup.
    pub backup_end: DateTime<Utc>,
    /// Number of files that the parent does not have.
    pub files_new: u64,
    /// Number of files that have other contents in the parent.
    pub files_changed: u64,
    /// Number of files that are the same in the parent.
    pub files_unmodified: u64,
    /// Number of new data blobs.
    pub data_blobs: u64,
    /// Number of new tree blobs.
    pub tree_blobs: u64,
    /// Bytes of new blobs, before compression.
    pub data_added: u64,
    /// Bytes of new blobs, as stored.
    pub data_added_packed: u64,
    /// Number of files.
    pub total_files_processed: u64,
    /// Bytes of all files.
    pub total_bytes_processed: u64,
}

impl Snapshot {
    /// Whether this program made it.
    pub fn is_ours(&self) -> bool {
        self.tags.iter().any(|tag| tag == TAG)
    }

    /// Whether it is a restore point of the domain with this name and these tags.
    pub fn is_of(&self, hostname: &str, tags: &[String]) -> bool {
        self.is_ours() && self.hostname == hostname && tags.iter().all(|tag| self.tags.contains(tag))
    }

    /// Fails if the facts are too long.
    pub(super) fn check(&self, repository: &Repository) -> Result<(), Error> {
        let length = self.facts.as_ref().map_or(0, |facts| facts.to_string().len());
        if length > MAX_FACTS {
            Err(repository.invalid(format!("the facts of the snapshot have more than {MAX_FACTS} bytes")))
        } else {
            Ok(())
        }
    }
}

/// The snapshots that could be read, and the errors of the others.
#[derive(Debug, Default)]
pub struct SnapshotList {
    /// Snapshots, oldest first.
    pub found: Vec<(Id, Snapshot)>,
    /// Errors of snapshots that cannot be read.
    pub failures: Vec<Error>,
}

impl SnapshotList {
    /// The snapshots that this program made.
    pub fn ours(&self) -> impl Iterator<Item = &(Id, Snapshot)> {
        self.found.iter().filter(|(_, snapshot)| snapshot.is_ours())
    }

    /// Updates the list. Snapshots never change, so known ones are not read again.
    ///
    /// # Errors
    /// If the snapshots cannot be listed.
    fn update(&mut self, repository: &Repository, cache: &JsonCache) -> Result<(), Error> {
        let current: HashSet<Id> = repository.list(Kind::Snapshot)?.into_iter().map(|(id, _)| id).collect();
        self.found.retain(|(id, _)| current.contains(id));
        self.failures.clear();
        let known: HashSet<Id> = self.found.iter().map(|(id, _)| *id).collect();
        let mut new: Vec<Id> = current.difference(&known).copied().collect();
        new.sort_unstable();
        for (id, read) in new.iter().zip(at_once(READERS, &new, |id| repository.cached_snapshot(*id, cache))) {
            match read {
                Ok(Some(snapshot)) => self.found.push((*id, snapshot)),
                // It was removed after the listing.
                Ok(None) => {}
                Err(error) if error.is_stall() => return Err(error),
                Err(error) => self.failures.push(error),
            }
        }
        self.found.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok(())
    }
}

/// The snapshots of a repository as this process knows them, and the cache with those that earlier ones knew. The cache is
/// written when this is dropped.
#[derive(Debug)]
pub struct KnownSnapshots {
    list: Mutex<SnapshotList>,
    /// The cache.
    pub cache: JsonCache,
}

impl KnownSnapshots {
    /// Opens the cache in this directory.
    pub fn open(repository: &Repository, cache: &Path) -> KnownSnapshots {
        KnownSnapshots { list: Mutex::default(), cache: JsonCache::open(repository, cache) }
    }

    /// All snapshots, including those of restic itself. Brings the list up to date.
    ///
    /// # Errors
    /// If the snapshots cannot be listed.
    pub fn update(&self, repository: &Repository) -> Result<MutexGuard<'_, SnapshotList>, Error> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.update(repository, &self.cache)?;
        Ok(list)
    }
}

impl Drop for KnownSnapshots {
    fn drop(&mut self) {
        let list = self.list.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !list.found.is_empty() {
            self.cache.save(|| list.found.iter().flat_map(|(id, snapshot)| [*id, snapshot.tree]).collect());
        }
    }
}

impl Repository {
    /// All snapshots, without a cache.
    #[cfg(test)]
    pub fn uncached_snapshots(&self) -> Result<SnapshotList, Error> {
        let mut list = SnapshotList::default();
        list.update(self, &JsonCache::open(self, Path::new("/nowhere")))?;
        Ok(list)
    }

    /// As [`Repository::snapshot`]. One in the cache may no longer exist.
    pub fn cached_snapshot(&self, id: Id, cache: &JsonCache) -> Result<Option<Snapshot>, Error> {
        if let Some(cached) = cache.get(&id).and_then(|json| serde_json::from_slice(&json).ok()) {
            return Ok(Some(cached));
        }
        let read = self.snapshot(id)?;
        if let Some(json) = read.as_ref().and_then(|snapshot| serde_json::to_vec(snapshot).ok()) {
            cache.add(id, json);
        }
        Ok(read)
    }

    /// A snapshot; `None` if it does not exist.
    pub fn snapshot(&self, id: Id) -> Result<Option<Snapshot>, Error> {
        match self.load(Kind::Snapshot, id) {
            Err(Error::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            loaded => loaded.map(Some),
        }
    }

    /// Removes a snapshot; a missing one is not an error.
    pub fn forget(&self, id: Id) -> Result<(), Error> {
        self.remove(Object::new(Kind::Snapshot, id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Restic;
    use super::super::{BlobKind, pack::Pack, tree::Tree};
    use super::*;

    #[test]
    fn restic_reads_our_snapshot_and_we_read_its_snapshot() {
        let restic = Restic::new();
        let repository = Repository::init(restic.place(), Restic::PASSWORD).unwrap();
        let mut json = Vec::new();
        let (tree, _) = Tree::default().write(&mut json).unwrap();
        let mut pack = Pack::new(BlobKind::Tree);
        pack.add(tree, &repository.key().seal(&json).unwrap(), None).unwrap();
        let pack = pack.finish(repository.key()).unwrap();
        let pack_id = Id::of(&pack.bytes);
        repository.put(Object::new(Kind::Pack, pack_id), pack.bytes).unwrap();
        let mut index = super::super::index::Index::default();
        index.add(pack_id, &pack.entries);
        index.save(&repository).unwrap();
        let ours = Snapshot {
            time: "2026-11-30T02:00:00.123Z".parse().unwrap(),
            parent: None,
            tree,
            paths: vec!["/web".to_owned()],
            hostname: "web".to_owned(),
            username: "root".to_owned(),
            tags: vec![TAG.to_owned(), "uuid:1".to_owned()],
            program_version: Some("kvmbackup 1".to_owned()),
            summary: Some(Summary::default()),
            facts: Some(serde_json::json!({"run": 1})),
        };
        let id = repository.save(Kind::Snapshot, &ours).unwrap();
        restic.run(&["check", "--read-data"]);
        let listed = restic.run(&["snapshots"]);
        assert!(
            listed.contains(&id.to_string()[..8]) && listed.contains("/web") && listed.contains("uuid:1"),
            "{listed}"
        );
        assert!(
            ours.is_of("web", &ours.tags)
                && !ours.is_of("db", &ours.tags)
                && !ours.is_of("web", &["uuid:2".to_owned()])
        );

        std::fs::write(restic.path("file"), "x").unwrap();
        restic.run(&["backup", "--host", "other", "file"]);
        let damaged = Object::new(Kind::Snapshot, Id::of(b"damaged"));
        repository.put(damaged, b"damaged".to_vec()).unwrap();
        let snapshots = repository.uncached_snapshots().unwrap();
        assert_eq!(snapshots.found[0], (id, ours));
        assert!(snapshots.found[1].1.hostname == "other" && !snapshots.found[1].1.is_ours());
        assert!(snapshots.failures.len() == 1 && snapshots.failures[0].to_string().contains(&damaged.to_string()));
    }
}
