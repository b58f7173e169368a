//! The errors of stored restore points. Must not describe errors of a restore's destination.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive;
use crate::model::PointId;
use crate::model::command::quoted;
use crate::qcow2;
use crate::repository;
use crate::sys::durable::Exposed;
use crate::sys::patience::{Stalled, is_out_of_reach};
use crate::sys::secret::SecretError;
use crate::sys::trust::Refused;

/// An error while listing, reading, writing or removing restore points.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target does not exist or is not a directory.
    #[error("the backup directory {} is unusable", path.display())]
    Target {
        /// `backupdir`.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The directory of an unfinished archive does not exist; the target may not be mounted.
    #[error("{}: cannot remove the unfinished archive, because its directory is missing", path.display())]
    Unmounted {
        /// Path of the archive.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// The operation: `list`, `create`, `publish`, `remove`.
        action: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// An archive could not be written or read.
    #[error("{}: the archive failed", path.display())]
    Archive {
        /// Path of the archive.
        path: PathBuf,
        /// Cause.
        source: archive::Error,
    },
    /// A disk image does not have the expected format or cannot be laid out.
    #[error("{}: member {member} is damaged", path.display())]
    Image {
        /// Path of the archive.
        path: PathBuf,
        /// Name of the member.
        member: String,
        /// Cause.
        source: qcow2::Error,
    },
    /// A restore point contains something that kvmbackup does not write, or that must not be restored.
    #[error("{}: {what}", path.display())]
    Suspect {
        /// Path of the archive.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A range is outside the disk.
    #[error("{}: the disk does not have {length} bytes at {offset}", path.display())]
    Range {
        /// Path of the archive.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
    },
    /// A disk is stored as an image of another program and can only be restored to a file.
    #[error("{}: {member} is stored as an image", path.display())]
    KeptAsImage {
        /// Path of the archive.
        path: PathBuf,
        /// Name of the member.
        member: String,
    },
    /// A signal was received.
    #[error("stopped by signal {signal}")]
    Stopped {
        /// Signal number.
        signal: i32,
    },
    /// A repository could not be used.
    #[error(transparent)]
    Repository(repository::Error),
    /// The password of the repository could not be read.
    #[error(transparent)]
    Password(#[from] SecretError),
    /// The target contains archives, not a repository.
    #[error("{}: the configuration names no repository", path.display())]
    NoRepository {
        /// `backupdir`.
        path: PathBuf,
    },
    /// The secret access key of the bucket could not be read.
    #[error("cannot read the secret access key from {place}")]
    SecretKey {
        /// The file, variable or credential.
        place: String,
        /// Cause.
        source: io::Error,
    },
    /// Neither the configuration nor the environment names an access key.
    #[error("{place}: no access key: {name} is not set")]
    NoKey {
        /// URL of the bucket.
        place: String,
        /// The environment variable.
        name: &'static str,
    },
    /// The certificates for the server of a bucket cannot be used.
    #[error("cannot use the certificates in {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Another user could change a file on which the security of the repository depends.
    #[error("the {what} of the repository cannot be trusted")]
    Untrusted {
        /// The file.
        what: &'static str,
        /// Cause.
        source: Refused,
    },
    /// An operator protected it.
    #[error("{} is protected", path.display())]
    Protected {
        /// Name of the domain.
        domain: String,
        /// ID of the point.
        id: PointId,
        /// Path of the point.
        path: PathBuf,
    },
    /// An archive of the legacy script is never removed.
    #[error("{} was made by the legacy script and is never removed", path.display())]
    NotOurs {
        /// Path of the archive.
        path: PathBuf,
    },
}

impl From<repository::Error> for Error {
    fn from(error: repository::Error) -> Error {
        match error {
            repository::Error::Stopped { signal } => Error::Stopped { signal },
            error => Error::Repository(error),
        }
    }
}

impl Error {
    /// For `map_err`.
    pub fn archive(path: &Path) -> impl Fn(archive::Error) -> Error + '_ {
        |source| Error::Archive { path: path.to_owned(), source }
    }

    /// Whether the target hung or is unreachable.
    pub fn is_stall(&self) -> bool {
        match self {
            Error::Archive { source: archive::Error::Write { .. }, .. } => Stalled::caused(self),
            Error::Archive { source, .. } => is_out_of_reach(source),
            Error::Repository(source) => source.is_stall(),
            error => Stalled::caused(error),
        }
    }

    /// Whether a restore point is damaged or inconsistent.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Archive { source, .. } => source.is_damage(),
            Error::Image { source, .. } => !matches!(source, qcow2::Error::Read(_)),
            Error::Suspect { .. } => true,
            Error::Repository(source) => source.is_damage(),
            _ => false,
        }
    }

    /// Whether the archive does not exist.
    pub fn is_missing(&self) -> bool {
        match self {
            Error::Archive { source: archive::Error::Open { source, .. }, .. }
            | Error::File { action: "open", source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            // Its hints distinguish directories and buckets.
            Error::Repository(source) => source.hint(),
            error if error.is_stall() => Some(Stalled::HINT.to_owned()),
            Error::Archive { source, .. } => source.hint(),
            Error::Image { source, .. } => source.hint(),
            Error::NoRepository { .. } => {
                Some("Set `repository` instead of `backupdir`; see docs/config.md, \"Repository\".".to_owned())
            }
            Error::Untrusted { source, .. } => source.hint(),
            Error::NoKey { .. } => Some(
                "Set `access_key_id` and `secret_access_key_file` below `repository`, or set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY in the environment."
                    .to_owned(),
            ),
            Error::Certificates { .. } => {
                Some("Set `ca_file` below `repository` to a file with certificates in PEM format.".to_owned())
            }
            Error::Password(_) | Error::SecretKey { .. } => Some("Check `repository` in the configuration.".to_owned()),
            Error::Suspect { .. } => {
                Some("Use another restore point, and find out who wrote this one: kvmbackup verify".to_owned())
            }
            Error::KeptAsImage { .. } => Some("Restore it to a file: kvmbackup restore DOMAIN --to DIR".to_owned()),
            Error::Target { path, source } | Error::File { path, source, .. } if Exposed::is(source) => Some(format!(
                "Mount it so that only root can read it: `umask=077` for vfat, exFAT and NTFS, \
                 `file_mode=0600,dir_mode=0700` for CIFS (in \
                 /etc/fstab, then unmount and mount); see: findmnt -T {}",
                existing(path).display()
            )),
            Error::Target { path, source } | Error::File { path, source, .. }
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                Some(format!(
                    "Find out why it is read-only (findmnt -T {0}; dmesg) and repair it; then: mount -o remount,rw \
                     \"$(findmnt -no TARGET -T {0})\"",
                    existing(path).display()
                ))
            }
            Error::Unmounted { .. } => Some(
                "Mount the target, or create the directory if it is gone for good; then: kvmbackup recover".to_owned(),
            ),
            Error::Target { path, source } if source.kind() == io::ErrorKind::NotFound => Some(format!(
                "Mount the target. If it is not a mount, create the directory: mkdir -p {}",
                path.display()
            )),
            Error::Target { .. } => Some("Mount the target, or correct `backupdir`.".to_owned()),
            Error::Protected { domain, id, .. } => {
                Some(format!("To end the protection: kvmbackup unprotect {} --at {id}", quoted(domain)))
            }
            Error::NotOurs { path } => Some(format!("Remove it by hand: rm {}", path.display())),
            Error::File { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Some("Free space on the target, or keep fewer restore points.".to_owned())
            }
            Error::File { action: "list", path, source } if source.kind() == io::ErrorKind::InvalidData => {
                Some(format!("Find out what fills it, and move that away: ls -f {} | head", path.display()))
            }
            Error::File { action, path, source }
                if !matches!(*action, "list" | "open") && source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some(format!(
                    "Let root write there. An NFS export needs `no_root_squash`, or the directory must belong to the \
                     user that root is mapped to. Check: ls -ld {0}; findmnt -T {0}",
                    existing(path).display()
                ))
            }
            Error::File { action: "list" | "open", path, .. } => {
                Some(format!("Check who owns it and where it points: ls -ld {0}; findmnt -T {0}", path.display()))
            }
            _ => None,
        }
    }
}

/// The nearest existing ancestor of a path, to use in a command.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(path)
}
