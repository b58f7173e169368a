//! Owns: snapshots, which make a tree a restore point, as restic writes them. Must not: know what a domain is, except by name.

use std::io;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Error, Id, Kind, Repository};

/// What restore points of ours are tagged with.
pub const TAG: &str = "kvmbackup";

/// Bytes of [`Snapshot::facts`], at most.
const MAX_FACTS: usize = 64 << 10;

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken.
    pub time: DateTime<Utc>,
    /// The snapshot that it builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// Its root folder.
    pub tree: Id,
    /// What was saved: `/NAME`.
    #[serde(default)]
    pub paths: Vec<String>,
    /// The domain, so that restic groups by it.
    #[serde(default)]
    pub hostname: String,
    /// The user that saved it.
    #[serde(default)]
    pub username: String,
    /// The same for all points of a domain, or restic would not group them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The program and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_version: Option<String>,
    /// Counts, for restic's list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What changes from point to point, and would cost a tree each time. restic ignores it, and drops it when it copies a snapshot or
    /// changes its tags: nothing that a restore needs may be in it.
    #[serde(default, rename = "kvmbackup", skip_serializing_if = "Option::is_none")]
    pub facts: Option<serde_json::Value>,
}

/// What a snapshot holds and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Summary {
    /// When the backup began.
    pub backup_start: DateTime<Utc>,
    /// When it ended.
    pub backup_end: DateTime<Utc>,
    /// Files that the parent does not have.
    pub files_new: u64,
    /// Files that it has with other contents.
    pub files_changed: u64,
    /// Files that it has.
    pub files_unmodified: u64,
    /// New blobs of files.
    pub data_blobs: u64,
    /// New blobs of folders.
    pub tree_blobs: u64,
    /// Bytes of new blobs.
    pub data_added: u64,
    /// The same, as stored.
    pub data_added_packed: u64,
    /// Files.
    pub total_files_processed: u64,
    /// Their bytes.
    pub total_bytes_processed: u64,
}

impl Snapshot {
    /// Whether this program made it.
    pub fn is_ours(&self) -> bool {
        self.tags.iter().any(|tag| tag == TAG)
    }

    /// Whether it is a point of the same guest as one with these tags.
    pub fn is_of(&self, hostname: &str, tags: &[String]) -> bool {
        self.is_ours() && self.hostname == hostname && tags.iter().all(|tag| self.tags.contains(tag))
    }

    /// Fails for facts that are too long.
    pub(super) fn check(&self, repository: &Repository) -> Result<(), Error> {
        let length = self.facts.as_ref().map_or(0, |facts| facts.to_string().len());
        if length > MAX_FACTS {
            Err(repository.invalid(format!("more than {MAX_FACTS} bytes of facts")))
        } else {
            Ok(())
        }
    }
}

/// The snapshots, and why others could not be read.
#[derive(Debug, Default)]
pub struct SnapshotList {
    /// By time, oldest first.
    pub found: Vec<(Id, Snapshot)>,
    /// Those that cannot be read.
    pub failures: Vec<Error>,
}

impl Repository {
    /// All snapshots, restic's own too.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn snapshots(&self) -> Result<SnapshotList, Error> {
        let mut snapshots = SnapshotList::default();
        for (id, _) in self.list(Kind::Snapshot)? {
            match self.load(Kind::Snapshot, id) {
                Ok(snapshot) => snapshots.found.push((id, snapshot)),
                // It was forgotten meanwhile.
                Err(Error::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.is_stall() => return Err(error),
                Err(error) => snapshots.failures.push(error),
            }
        }
        snapshots.found.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok(snapshots)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Restic;
    use super::super::{BlobKind, Object, pack::Pack, tree::Tree};
    use super::*;

    #[test]
    fn restic_reads_a_snapshot_of_ours_and_we_read_its() {
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
        let snapshots = repository.snapshots().unwrap();
        assert_eq!(snapshots.found[0], (id, ours));
        assert!(snapshots.found[1].1.hostname == "other" && !snapshots.found[1].1.is_ours());
        assert!(snapshots.failures.len() == 1 && snapshots.failures[0].to_string().contains(&damaged.to_string()));
    }
}
