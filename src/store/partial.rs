//! Owns: an archive from its temporary name to its own. Must not: know what is written into it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::folder::Free;
use super::{Error, Kind, Point};
use crate::model::PointId;
use crate::sys::durable;
use crate::sys::patience::Patience;
use crate::sys::step::{self, Step};

/// An archive that is being written, under a temporary name. Dropped without [`Partial::publish`], it is removed.
#[derive(Debug)]
pub struct Partial {
    file: Option<File>,
    /// Whether there may be a file of the temporary name.
    is_there: bool,
    domain: String,
    names: Free,
    patience: Patience,
}

impl Partial {
    pub(super) fn new(file: File, domain: &str, names: Free, patience: &Patience) -> Partial {
        Partial { file: Some(file), is_there: true, domain: domain.to_owned(), names, patience: patience.clone() }
    }

    /// The restore point it will be.
    pub fn id(&self) -> PointId {
        self.names.id
    }

    /// Its temporary path, for the journal and for messages.
    pub fn path(&self) -> &Path {
        &self.names.partial
    }

    /// The empty file, for a writer.
    pub fn file(&self) -> Result<File, Error> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound.into());
        file.and_then(File::try_clone).map_err(|source| self.error("open", source))
    }

    /// Makes the contents durable, gives the file its name and makes that durable. Never replaces a file. After an error,
    /// what is left under the temporary name can be discarded.
    pub fn publish(&mut self) -> Result<Point, Error> {
        let Some(file) = self.file.take() else {
            return Err(self.error("publish", io::ErrorKind::NotFound.into()));
        };
        let names = self.names.clone();
        let published = self.patience.call(move || publish(&file, &names)).and_then(|done| done);
        let bytes = published.map_err(|source| self.error("publish", source))?;
        self.is_there = false;
        let Free { id, archive: path, .. } = self.names.clone();
        Ok(Point { domain: self.domain.clone(), id, path, bytes, kind: Kind::Archive })
    }

    /// Removes it. After an error it may still exist, or appear later: a call that hangs cannot be undone.
    pub fn discard(mut self) -> Result<(), Error> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.is_there) {
            return Ok(());
        }
        let (file, names) = (self.file.take(), self.names.clone());
        // Closing it, too, is a call on the target.
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

/// Removes what an interrupted run left under a temporary name, as the journal has it.
///
/// # Errors
/// [`Error::Unmounted`] if its folder does not exist: on a target that is not mounted now, the file would seem to be gone.
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

/// Its length.
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

/// Renames without replacing; for file systems that cannot do this in one call (NFS among them: rename(2), "NOTES") as well.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return Ok(result?),
    }
    rename_by_link(from, to)
}

/// The file gets a second name and loses the first. Where there are no hard links (exFAT, some SMB shares), the target's name is
/// looked at before the rename, which is enough as long as the lock of the run is held.
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
    fn without_a_rename_that_refuses_nothing_is_replaced_either() {
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
    fn where_there_are_no_hard_links_nothing_is_replaced_either() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // No file system has hard links to folders.
        fs::create_dir(at("from")).unwrap();
        fs::create_dir(at("taken")).unwrap();
        let refused = rename_by_link(&at("from"), &at("taken")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(at("from").exists());
        rename_by_link(&at("from"), &at("to")).unwrap();
        assert!(at("to").exists() && !at("from").exists());
    }
}
