//! Describes a restore point without opening it. Must not access the disk.

use std::path::{Path, PathBuf};

#[cfg(test)]
use chrono::DateTime;
use uuid::Uuid;

use crate::model::{PointId, StoreKind};
use crate::repository::Id;

/// A restore point, as far as its file name and metadata describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Name of the domain.
    pub domain: String,
    /// Time of the backup. For an archive of the legacy script: its modification time, or the date inside if that
    /// contradicts it.
    pub id: PointId,
    /// Length of the archive in bytes; for a snapshot, what it added to the repository.
    pub bytes: u64,
    pub(super) guest: Option<Uuid>,
    pub(super) protected: bool,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

/// The program that made a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// kvmbackup, as an archive.
    Archive,
    /// kvmbackup, as a snapshot of a repository.
    Snapshot {
        /// Its ID.
        id: Id,
    },
    /// The legacy script. Such a point is never removed.
    Script {
        /// The number at the end of `NAME.tar.gz.1`; 0 for `NAME.tar.gz`.
        rotation: u32,
    },
}

impl Point {
    /// Whether an operator protected it from being removed.
    pub fn is_protected(&self) -> bool {
        self.protected
    }

    /// UUID of the guest, if it is known without opening the point.
    pub fn guest(&self) -> Option<Uuid> {
        self.guest
    }

    /// The kind of store that contains it.
    pub fn store(&self) -> StoreKind {
        match self.kind {
            Kind::Archive | Kind::Script { .. } => StoreKind::Archive,
            Kind::Snapshot { .. } => StoreKind::Repository,
        }
    }

    /// ID of its snapshot, if it is in a repository.
    pub fn snapshot(&self) -> Option<String> {
        match self.kind {
            Kind::Snapshot { id } => Some(id.to_string()),
            Kind::Archive | Kind::Script { .. } => None,
        }
    }

    /// Path of the file.
    pub fn location(&self) -> &Path {
        &self.path
    }

    /// The program that made it, as `list` shows it: `kvmbackup`, or `seed` for the legacy script.
    pub fn origin(&self) -> &'static str {
        match self.kind {
            Kind::Archive | Kind::Snapshot { .. } => "kvmbackup",
            Kind::Script { .. } => "seed",
        }
    }

    /// Why it is never removed; `None` if it may be.
    pub fn kept_because(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Archive | Kind::Snapshot { .. } => self.protected.then_some("protected"),
            Kind::Script { .. } => Some("made by the legacy script: never removed"),
        }
    }

    /// A point without a file.
    #[cfg(test)]
    pub fn sample(domain: &str, bytes: u64) -> Point {
        let id = PointId::at(DateTime::UNIX_EPOCH);
        Point {
            domain: domain.to_owned(),
            id,
            bytes,
            guest: None,
            protected: false,
            path: "/b/a".into(),
            kind: Kind::Archive,
        }
    }
}
