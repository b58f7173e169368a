//! Defines the errors of a repository. Must not know domains.

use std::io;
use std::path::PathBuf;

use super::{BlobKind, Id, Kind, Object};
use crate::model::BucketUrl;
use crate::sys::patience::{Stalled, is_out_of_reach};

/// An error while opening, reading or writing a repository. `place` is the location of the repository.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object cannot be examined, read, written, listed or removed.
    #[error("{place}: cannot {action} {what}")]
    Access {
        /// Location of the repository.
        place: String,
        /// The operation: `examine`, `read`, `write`, `list`, `remove`.
        action: &'static str,
        /// The object, or the kind of objects.
        what: String,
        /// Cause.
        source: io::Error,
    },
    /// An object differs from what was written.
    #[error("{place}: {object} is damaged")]
    Damaged {
        /// Location of the repository.
        place: String,
        /// The object.
        object: Object,
        /// Kind of damage.
        source: Corruption,
    },
    /// A blob differs from what was written.
    #[error("{place}: {kind} blob {id} in {pack} is damaged")]
    DamagedBlob {
        /// Location of the repository.
        place: String,
        /// Kind of the blob.
        kind: BlobKind,
        /// ID of the blob.
        id: Id,
        /// The pack that contains it.
        pack: Object,
        /// Kind of damage.
        source: Corruption,
    },
    /// No index lists a blob that a restore point needs.
    #[error("{place}: {kind} blob {id} is missing")]
    MissingBlob {
        /// Location of the repository.
        place: String,
        /// Kind of the blob.
        kind: BlobKind,
        /// ID of the blob.
        id: Id,
    },
    /// A restore point contains something that this program does not write.
    #[error("{place}: {object}: {what}")]
    Suspect {
        /// Location of the repository.
        place: String,
        /// The snapshot.
        object: Object,
        /// What is wrong.
        what: String,
    },
    /// The repository does not exist.
    #[error("{place}: no repository found")]
    None {
        /// Location of the repository.
        place: String,
    },
    /// The repository to create already exists.
    #[error("{place}: the repository already exists")]
    Exists {
        /// Location of the repository.
        place: String,
    },
    /// The repository has an unsupported format version.
    #[error("{place}: the repository has format version {version}; this program supports only version 2")]
    Version {
        /// Location of the repository.
        place: String,
        /// Format version of the repository.
        version: u32,
    },
    /// The password opens none of the keys.
    #[error("{place}: wrong password, or the key for it was removed")]
    Password {
        /// Location of the repository.
        place: String,
    },
    /// Another process has an exclusive lock on the repository.
    #[error("{place}: exclusively locked by {holder}")]
    Locked {
        /// Location of the repository.
        place: String,
        /// Process, user, host and time.
        holder: String,
    },
    /// The lock of this process was removed, or is too old.
    #[error("{place}: the lock of this process is lost: {why}")]
    LockLost {
        /// Location of the repository.
        place: String,
        /// Cause.
        why: String,
    },
    /// The parent of a new restore point was removed during the backup.
    #[error("{place}: the parent snapshot {parent} was removed during the backup")]
    ParentGone {
        /// Location of the repository.
        place: String,
        /// ID of the parent snapshot.
        parent: Id,
    },
    /// The cache cannot be used.
    #[error("cannot {action} the cache {}", path.display())]
    Cache {
        /// The operation: `create`, `lock`, `read`, `write`.
        action: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The caller requested something that does not exist, or that is too large for the format.
    #[error("{place}: {what}")]
    Invalid {
        /// Location of the repository.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The system refused threads, memory or random bytes, or a thread panicked.
    #[error("{place}: cannot compress, encrypt or run a thread")]
    System {
        /// Location of the repository.
        place: String,
        /// Cause.
        source: io::Error,
    },
    /// A signal was received.
    #[error("stopped by signal {signal}")]
    Stopped {
        /// Signal number.
        signal: i32,
    },
}

/// How bytes differ from what was written.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// The authentication code does not match.
    #[error("its authentication code does not match: it was changed, or written with another key")]
    Mac,
    /// The SHA-256 does not match.
    #[error("its SHA-256 does not match its ID")]
    Hash,
    /// There are too few bytes.
    #[error("it is truncated")]
    Short,
    /// There are more bytes than any program writes there.
    #[error("it is larger than {limit} bytes")]
    TooLarge {
        /// Limit in bytes.
        limit: u64,
    },
    /// The bytes cannot be decompressed.
    #[error("it cannot be decompressed")]
    Decompress(#[source] io::Error),
    /// The bytes are not the expected JSON.
    #[error("it is not the expected JSON")]
    Json(#[source] serde_json::Error),
    /// The bytes violate the format in another way.
    #[error("{0}")]
    Malformed(&'static str),
}

impl Error {
    /// Whether the place hung or is unreachable. This is no evidence of damage.
    pub fn is_stall(&self) -> bool {
        is_out_of_reach(self)
    }

    /// Whether the repository cannot be written by this process.
    pub fn is_read_only(&self) -> bool {
        let refused = [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied];
        matches!(self, Error::Access { action: "write", source, .. } if refused.contains(&source.kind()))
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

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        if let Error::Access { place, source, .. } = self
            && let Ok(bucket) = place.parse::<BucketUrl>()
        {
            return self.hint_for_bucket(&bucket, source);
        }
        match self {
            Error::None { place } if BucketUrl::is_meant(place) => {
                Some("Correct `url`, or create the repository: kvmbackup repository init".to_owned())
            }
            error if Stalled::caused(error) => Some(Stalled::HINT.to_owned()),
            Error::Damaged { place, object, .. } if object.kind == Kind::Lock => Some(format!(
                "If no process uses the repository, remove the lock: restic -r '{place}' unlock --remove-all"
            )),
            Error::Damaged { object: Object::CONFIG, .. } => Some(
                "Restore that file from a copy, or move it away and create it again with the existing key: kvmbackup \
                 repository init"
                    .to_owned(),
            ),
            Error::Damaged { place, .. } | Error::DamagedBlob { place, .. } | Error::MissingBlob { place, .. } => {
                Some(format!("Find out what else is damaged: restic -r '{place}' check --read-data"))
            }
            Error::None { .. } => {
                Some("Mount the target, correct `url`, or create the repository: kvmbackup repository init".to_owned())
            }
            Error::Locked { place, .. } => Some(format!(
                "Wait for it. If that process no longer exists, remove its lock: kvmbackup maintain; if that does not \
                 remove it: restic -r '{place}' unlock --remove-all"
            )),
            Error::LockLost { .. } | Error::ParentGone { .. } => Some(
                "Find out what removed it (`restic unlock --remove-all`, `restic forget`). The next run repeats the \
                 backup."
                    .to_owned(),
            ),
            Error::Version { place, version: 1 } => {
                Some(format!("Upgrade it: restic -r '{place}' migrate upgrade_repo_v2"))
            }
            Error::Password { place } => Some(format!("Check it. To list the keys: restic -r '{place}' key list")),
            Error::Cache { path, .. } => {
                Some(format!("Remove the cache, which only costs the time to rebuild it: rm -r '{}'", path.display()))
            }
            Error::Access { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Some("Free space on the target, or keep fewer restore points.".to_owned())
            }
            _ => None,
        }
    }

    fn hint_for_bucket(&self, bucket: &BucketUrl, source: &io::Error) -> Option<String> {
        let host = &bucket.endpoint;
        if source.to_string().contains("certificate") {
            return Some(
                "If its authority is private, set `ca_file` below `repository` to its certificate.".to_owned(),
            );
        }
        if self.is_stall() {
            return Some(format!(
                "Check that the server responds: curl -sS -m 10 -o /dev/null -w '%{{http_code}}' {host}"
            ));
        }
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Some(
                "Check the access key and its secret, and that the key may list, read, write and delete objects in the \
                 bucket; see docs/operations.md, \"A bucket as target\"."
                    .to_owned(),
            );
        }
        let is_no_bucket = source.to_string().contains("NoSuchBucket");
        is_no_bucket.then(|| format!("Create the bucket {}, or correct `url`.", bucket.bucket))
    }
}
