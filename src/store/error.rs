//! Owns: what can go wrong with stored restore points, in words. Must not: be about where they are restored to.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive;
use crate::qcow2;
use crate::sys::durable::Exposed;
use crate::sys::patience::{Stalled, is_out_of_reach};

/// Why restore points could not be listed, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target is not there, or is no folder.
    #[error("the backup directory {} is unusable", path.display())]
    Target {
        /// `backupdir`.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An unfinished archive cannot be removed, because its folder does not exist.
    #[error("{}: cannot remove the unfinished archive, because its directory is missing", path.display())]
    Unmounted {
        /// The archive.
        path: PathBuf,
    },
    /// A file or folder could not be read, written or removed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `list`, `create`, `publish`, `remove`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many points of one second and those after it.
    #[error("domain {domain}: no free name for a restore point in {}", path.display())]
    NoFreeId {
        /// The domain.
        domain: String,
        /// Its folder.
        path: PathBuf,
    },
    /// An archive cannot be written or read.
    #[error("{}: the archive failed", path.display())]
    Archive {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: archive::Error,
    },
    /// A disk of a restore point is not what its format demands, or cannot be laid out.
    #[error("{}: member {member} is damaged", path.display())]
    Image {
        /// The archive.
        path: PathBuf,
        /// Its member.
        member: String,
        /// Why.
        source: qcow2::Error,
    },
    /// A restore point holds what this program would not have written, or what must not be restored.
    #[error("{}: {what}", path.display())]
    Suspect {
        /// The archive.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A range is not on the disk.
    #[error("{}: the disk does not have {length} bytes at {offset}", path.display())]
    Range {
        /// The archive.
        path: PathBuf,
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// A disk is kept as an image of another program and can only be restored to a file.
    #[error("{}: {member} is stored as an image", path.display())]
    KeptAsImage {
        /// The archive.
        path: PathBuf,
        /// Its member.
        member: String,
    },
    /// A signal asked for the end.
    #[error("stopped by signal {signal}")]
    Stopped {
        /// Which.
        signal: i32,
    },
    /// Another program's archive is never removed.
    #[error("{} was made by the legacy script and is never removed", path.display())]
    NotOurs {
        /// The archive.
        path: PathBuf,
    },
}

impl Error {
    /// For `map_err`: an archive failed.
    pub fn archive(path: &Path) -> impl Fn(archive::Error) -> Error + '_ {
        |source| Error::Archive { path: path.to_owned(), source }
    }

    /// Whether the target hangs, or a reader of an archive cannot reach it.
    pub fn is_stall(&self) -> bool {
        match self {
            Error::Archive { source: archive::Error::Write { .. }, .. } => Stalled::caused(self),
            Error::Archive { source, .. } => is_out_of_reach(source),
            error => Stalled::caused(error),
        }
    }

    /// Whether a restore point is damaged, or not what it says it is.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Archive { source, .. } => source.is_damage(),
            Error::Image { source, .. } => !matches!(source, qcow2::Error::Read(_)),
            Error::Suspect { .. } => true,
            _ => false,
        }
    }

    /// Whether there was no file to open.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Archive { source: archive::Error::Open { source, .. }, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// What the operator can do, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            error if error.is_stall() => Some(Stalled::HINT.to_owned()),
            Error::Archive { source, .. } => source.hint(),
            Error::Image { source, .. } => source.hint(),
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
            Error::Target { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("Mount the target, or create the directory: mkdir -p {}", path.display()))
            }
            Error::Target { .. } => Some("Mount the target, or correct `backupdir`.".to_owned()),
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
                if *action != "list" && source.kind() == io::ErrorKind::PermissionDenied =>
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

/// The nearest file or folder above a path that exists, which a command can be given.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(path)
}
