//! Owns: what can go wrong with stored restore points, in words. Must not: be about what is inside an archive.

use std::io;
use std::path::{Path, PathBuf};

use crate::sys::durable::Exposed;
use crate::sys::patience::Stalled;

/// Why restore points could not be listed, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target is not there, or is no folder.
    #[error("the backup folder {} cannot be used", path.display())]
    Target {
        /// `backupdir`.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder could not be read, written or removed.
    #[error("could not {action} {}", path.display())]
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
    /// Another program's archive is never removed.
    #[error("{} was made by the seed script and is not removed", path.display())]
    NotOurs {
        /// The archive.
        path: PathBuf,
    },
}

impl Error {
    /// Whether the target hangs.
    pub fn is_stall(&self) -> bool {
        matches!(self, Error::Target { source, .. } | Error::File { source, .. } if Stalled::is(source))
    }

    /// What the operator can do, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Target { source, .. } | Error::File { source, .. } if Stalled::is(source) => {
                Some(Stalled::HINT.to_owned())
            }
            Error::Target { path, source } | Error::File { path, source, .. } if Exposed::is(source) => Some(format!(
                "mount it so that only root can look in: `umask=077` for vfat, exFAT and NTFS, `file_mode=0600,dir_mode=0700` for CIFS (in \
                 /etc/fstab, then unmount and mount); see: findmnt -T {}",
                existing(path).display()
            )),
            Error::Target { path, source } | Error::File { path, source, .. }
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                Some(format!(
                    "see why it is read-only (findmnt -T {0}; dmesg), repair it, then: mount -o remount,rw \
                     \"$(findmnt -no TARGET -T {0})\"",
                    existing(path).display()
                ))
            }
            Error::Target { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("mount the target, or create the folder: mkdir -p {}", path.display()))
            }
            Error::Target { .. } => Some("mount the target, or correct `backupdir`".to_owned()),
            Error::NotOurs { path } => Some(format!("remove it yourself: rm {}", path.display())),
            Error::File { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Some("free space on the target, or keep fewer restore points".to_owned())
            }
            Error::File { action, path, source }
                if *action != "list" && *action != "look into" && source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some(format!(
                    "let root write there; an NFS export must have `no_root_squash`, or the folder must belong to the user that root is \
                     mapped to; see: ls -ld {0}; findmnt -T {0}",
                    existing(path).display()
                ))
            }
            Error::File { action: "list" | "look into" | "open", path, .. } => {
                Some(format!("see who owns it and what it leads to: ls -ld {0}; findmnt -T {0}", path.display()))
            }
            _ => None,
        }
    }
}

/// The nearest file or folder above a path that exists, which a command can be given.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(path)
}
