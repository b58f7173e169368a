//! A deduplicated, encrypted repository of restore points that is a restic repository, format version 2.
//!
//! Owns: the format (objects, packs, indexes, trees, snapshots, locks), writing and reading points in it. Must not: know
//! domains, hypervisors or retention; prune, which is restic's.

// No kind of store uses the repository yet: both lines go when one does.
#![expect(unused_imports, reason = "the interface of the repository, which no kind of store uses yet")]
#![cfg_attr(not(test), expect(dead_code, reason = "no kind of store uses the repository yet"))]

mod blobs;
mod catalog;
mod content;
mod crypto;
mod disk_reader;
mod disk_writer;
mod error;
mod fetch;
#[cfg(test)]
mod fixture;
mod format;
mod id;
mod index;
mod key_file;
mod local;
mod lock;
mod object;
mod pack;
mod place;
mod polynomial;
mod repo;
mod snapshot;
mod snapshot_reader;
mod snapshot_writer;
mod stream;
mod table;
mod table_writer;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod walk;

pub use blobs::Stats;
pub use catalog::Catalog;
pub use disk_reader::SnapshotDisk;
pub use disk_writer::{Disk, Sink};
pub use error::{Corruption, Error};
pub use id::Id;
pub use local::Local;
pub use lock::{SharedLock, Timing};
pub use object::{Kind, Object};
pub use place::Place;
pub use repo::Repository;
pub use snapshot::{Snapshot, SnapshotList, Summary};
pub use snapshot_reader::SnapshotReader;
pub use snapshot_writer::{About, SnapshotWriter, WriteOptions};

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// Contents of files.
    Data,
    /// A folder.
    Tree,
}

impl std::fmt::Display for BlobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BlobKind::Data => "data",
            BlobKind::Tree => "tree",
        })
    }
}
