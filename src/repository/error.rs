//! Owns: what can go wrong with a repository, in words. Must not: be about what a restore point is of.

use std::io;
use std::path::PathBuf;

use super::{BlobKind, Id, Object};
use crate::sys::patience::{Stalled, is_out_of_reach};

/// Why a repository could not be used, read or written. Each names the repository by its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object cannot be read, written, listed or removed.
    #[error("{place}: cannot {action} {what}")]
    Access {
        /// The repository.
        place: String,
        /// What was tried.
        action: &'static str,
        /// The object, or the kind of objects.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// An object is not what was written.
    #[error("{place}: {object} is damaged")]
    Damaged {
        /// The repository.
        place: String,
        /// Which.
        object: Object,
        /// How.
        source: Corruption,
    },
    /// A blob is not what was written.
    #[error("{place}: {kind} blob {id} in {pack} is damaged")]
    DamagedBlob {
        /// The repository.
        place: String,
        /// What is in it.
        kind: BlobKind,
        /// Which.
        id: Id,
        /// Where.
        pack: Object,
        /// How.
        source: Corruption,
    },
    /// No index knows a blob that a restore point needs.
    #[error("{place}: {kind} blob {id} is missing")]
    MissingBlob {
        /// The repository.
        place: String,
        /// What is in it.
        kind: BlobKind,
        /// Which.
        id: Id,
    },
    /// A restore point holds what this program would not have written.
    #[error("{place}: {object}: {what}")]
    Suspect {
        /// The repository.
        place: String,
        /// The snapshot.
        object: Object,
        /// What was found.
        what: String,
    },
    /// There is no repository.
    #[error("{place}: no repository")]
    None {
        /// Where.
        place: String,
    },
    /// There is one already.
    #[error("{place}: already a repository")]
    Exists {
        /// Where.
        place: String,
    },
    /// The repository has another version.
    #[error("{place}: the repository has format version {version}, this program uses 2")]
    Version {
        /// The repository.
        place: String,
        /// Its version.
        version: u32,
    },
    /// No key opens with the password.
    #[error("{place}: wrong password, or its key was removed")]
    Password {
        /// The repository.
        place: String,
    },
    /// Another process works on the repository alone.
    #[error("{place}: locked by {holder}")]
    Locked {
        /// The repository.
        place: String,
        /// Who, where and since when.
        holder: String,
    },
    /// Our own lock was removed, or is too old.
    #[error("{place}: our lock is lost: {why}")]
    LockLost {
        /// The repository.
        place: String,
        /// What happened.
        why: String,
    },
    /// The restore point that this one builds on was removed meanwhile.
    #[error("{place}: the restore point before this one ({parent}) was removed during the backup")]
    ParentGone {
        /// The repository.
        place: String,
        /// Its snapshot.
        parent: Id,
    },
    /// The cache cannot be used.
    #[error("cannot {action} the cache {}", path.display())]
    Cache {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something was asked for that does not exist, or is too large for the format.
    #[error("{place}: {what}")]
    Invalid {
        /// The repository.
        place: String,
        /// What.
        what: String,
    },
    /// The system refused threads, memory or random bytes.
    #[error("{place}: cannot compress or encrypt")]
    System {
        /// The repository.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// A signal asked for the end.
    #[error("stopped by signal {signal}")]
    Stopped {
        /// Which.
        signal: i32,
    },
}

/// In what way bytes are not what was written.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// The authentication code is another.
    #[error("its bytes were changed, or written with another key")]
    Mac,
    /// The SHA-256 is another.
    #[error("its SHA-256 is not its name")]
    Hash,
    /// There are too few bytes.
    #[error("it is cut off")]
    Short,
    /// There are more bytes than any program writes.
    #[error("it is larger than {limit} bytes")]
    TooLarge {
        /// How many there may be.
        limit: u64,
    },
    /// They cannot be decompressed.
    #[error("it cannot be decompressed")]
    Decompress(#[source] io::Error),
    /// They are not the JSON that is expected.
    #[error("it cannot be understood")]
    Json(#[source] serde_json::Error),
    /// They contradict the format in another way.
    #[error("{0}")]
    Malformed(&'static str),
}

impl Error {
    /// Whether the place hangs, or cannot be reached: that says nothing about what is stored.
    pub fn is_stall(&self) -> bool {
        is_out_of_reach(self)
    }

    /// Whether stored bytes are damaged or lost.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Damaged { .. } | Error::DamagedBlob { .. } | Error::MissingBlob { .. } | Error::Suspect { .. } => {
                true
            }
            Error::Access { action: "read", source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// What the operator can do, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            error if Stalled::caused(error) => Some(Stalled::HINT.to_owned()),
            Error::Damaged { place, .. } | Error::DamagedBlob { place, .. } | Error::MissingBlob { place, .. } => {
                Some(format!("find out what else is damaged: restic -r '{place}' check --read-data"))
            }
            Error::None { .. } => Some("mount the target, correct `url`, or create the repository".to_owned()),
            Error::Locked { place, .. } => {
                Some(format!("wait for it; if that process no longer exists: restic -r '{place}' unlock"))
            }
            Error::LockLost { .. } | Error::ParentGone { .. } => Some(
                "find out what removed it (`restic unlock --remove-all`, `restic forget`); the next run starts again"
                    .to_owned(),
            ),
            Error::Version { place, version: 1 } => {
                Some(format!("upgrade it: restic -r '{place}' migrate upgrade_repo_v2"))
            }
            Error::Password { place } => Some(format!("see which keys there are: restic -r '{place}' key list")),
            Error::Cache { path, .. } => {
                Some(format!("remove the cache, which costs only time: rm -r '{}'", path.display()))
            }
            Error::Access { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Some("free space on the target, or keep fewer restore points".to_owned())
            }
            _ => None,
        }
    }
}
