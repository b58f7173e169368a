//! Manages an archive file from its temporary to its final name. Must not interpret its contents.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::folder::Free;
use super::point::Kind;
use super::{Error, Point};
use crate::model::PointId;
use crate::sys::durable;
use crate::sys::patience::Patience;
use crate::sys::step::{self, Step};

/// An archive that is being written under a temporary name. Dropping it before [`Partial::publish`] removes it.
#[derive(Debug)]
pub struct Partial {
    file: Option<File>,
    /// Whether a file with the temporary name may exist.
    is_there: bool,
    domain: String,
    names: Free,
    patience: Patience,
}

impl Partial {
    pub(super) fn new(file: File, domain: &str, names: Free, patience: &Patience) -> Partial {
        Partial { file: Some(file), is_there: true, domain: domain.to_owned(), names, patience: patience.clone() }
    }

    /// ID of the future restore point.
    pub fn id(&self) -> PointId {
        self.names.id
    }

    /// Temporary path.
    pub fn path(&self) -> &Path {
        &self.names.partial
    }

    /// The file, for a writer.
    pub fn file(&self) -> Result<File, Error> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound.into());
        file.and_then(File::try_clone).map_err(|source| self.error("open", source))
    }

    /// Syncs the contents and renames the file durably. Never replaces a file. After an error the temporary file can
    /// be discarded.
    pub fn publish(&mut self) -> Result<Point, Error> {
        let Some(file) = self.file.take() else {
            return Err(self.error("publish", io::ErrorKind::NotFound.into()));
        };
        let names = self.names.clone();
        let published = self.patience.call(move || publish(&file, &names)).and_then(|done| done);
        let bytes = published.map_err(|source| self.error("publish", source))?;
        self.is_there = false;
        let Free { id, archive: path, .. } = self.names.clone();
        Ok(Point { domain: self.domain.clone(), id, bytes, guest: None, protected: false, path, kind: Kind::Archive })
    }

    /// Removes it. After an error it may still exist or appear later, because a call that hangs cannot be undone.
    pub fn discard(mut self) -> Result<(), Error> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.is_there) {
            return Ok(());
        }
        let (file, names) = (self.file.take(), self.names.clone());
        // Closing the file is also a call on the target.
        let removed = self.patience.call(move || {
            drop(file);
            step::reached(Step::PartialRemove)?;
            durable::remove(&names.folder.at(&names.partial))
        });
        removed.and_then(|done| done).map_err(|source| self.error("remove", source))
    }

    fn error(&self, action: &'static str, source: io::Error) -> Error {
        Error::File { action, path: self.names.partial.clone(), source }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(path = %self.path().display(), %error, "cannot remove a partial archive");
        }
    }
}

/// Removes an unfinished archive that the journal of an interrupted run names.
///
/// # Errors
/// [`Error::Unmounted`] if its directory does not exist: on an unmounted target the file would seem to be gone.
pub fn discard(path: &Path, patience: &Patience) -> Result<(), Error> {
    let partial = path.to_owned();
    let removed = patience.call(move || match partial.parent().is_some_and(Path::is_dir) {
        true => step::reached(Step::PartialRemove).and_then(|()| durable::remove(&partial)).map(|()| true),
        false => Ok(false),
    });
    match removed.and_then(|done| done) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Unmounted { path: path.to_owned() }),
        Err(source) => Err(Error::File { action: "remove the unfinished archive", path: path.to_owned(), source }),
    }
}

/// Returns the length in bytes.
fn publish(file: &File, names: &Free) -> io::Result<u64> {
    step::reached(Step::ArchiveSync)?;
    file.sync_all()?;
    let bytes = file.metadata()?.len();
    step::reached(Step::ArchiveRename)?;
    rename_new(&names.folder.at(&names.partial), &names.folder.at(&names.archive))?;
    step::reached(Step::ArchiveNamed)?;
    names.folder.sync()?;
    Ok(bytes)
}

/// Renames without replacing, also on file systems that cannot do this in one call (such as NFS: rename(2), "NOTES").
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return Ok(result?),
    }
    rename_by_link(from, to)
}

/// Links the new name and removes the old one. Without hard links (exFAT, some SMB shares) it checks the new name
/// before the rename, which is enough while the run holds the lock.
fn rename_by_link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(_) if fs::symlink_metadata(to).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rename_by_link_never_replaces_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("from"), "new").unwrap();
        fs::write(at("taken"), "precious").unwrap();
        let refused = rename_by_link(&at("from"), &at("taken")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(at("taken")).unwrap(), b"precious");
        rename_by_link(&at("from"), &at("to")).unwrap();
        assert_eq!((fs::read(at("to")).unwrap(), at("from").exists()), (b"new".to_vec(), false));
    }

    #[test]
    fn rename_without_hard_links_never_replaces_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // No file system has hard links to directories.
        fs::create_dir(at("from")).unwrap();
        fs::create_dir(at("taken")).unwrap();
        let refused = rename_by_link(&at("from"), &at("taken")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(at("from").exists());
        rename_by_link(&at("from"), &at("to")).unwrap();
        assert!(at("to").exists() && !at("from").exists());
    }
}
