//! A deduplicated, encrypted repository of restore points: a restic repository of format version 2.
//!
//! Reads and writes restore points in this format: objects, packs, indexes, trees, snapshots and locks. Must not know
//! domains, hypervisors or retention, and must not prune: restic does that.

mod blobs;
mod catalog;
mod content;
mod crypto;
mod damaged_snapshot;
mod disk_reader;
mod disk_writer;
mod error;
mod fetch;
#[cfg(test)]
mod fixture;
mod format;
mod id;
mod index;
mod json_cache;
mod kept;
mod key_file;
mod local;
mod lock;
mod object;
mod pack;
mod place;
mod polynomial;
mod repo;
mod s3;
mod size;
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

pub use catalog::Catalog;
pub use damaged_snapshot::{DamagedFile, DamagedSnapshot};
pub use disk_reader::SnapshotDisk;
pub use disk_writer::{Added, Disk, Sink};
pub use error::{Corruption, Error};
pub use id::Id;
use json_cache::JsonCache;
pub use local::Local;
pub use lock::{SharedLock, Timing, remove_left_by_us, remove_stale};
pub use object::{Kind, Object};
pub use place::Place;
pub use repo::Repository;
pub use s3::{S3, S3Keys};
pub use size::{Packs, count_blobs};
pub use snapshot::{KnownSnapshots, Snapshot, SnapshotList, TAG};
pub use snapshot_reader::{SnapshotReader, read_top_file};
pub use snapshot_writer::{About, SnapshotWriter, WriteOptions};

/// Kind of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// Contents of a file.
    Data,
    /// A directory.
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
