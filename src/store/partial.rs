//! Owns: an archive from its temporary name to its own. Must not: know what is written into it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Error, Origin, Point};
use crate::model::PointId;
use crate::sys::durable;
use crate::sys::step::{self, Step};

/// An archive that is being written, under a temporary name. Dropped without [`Partial::publish`], it is removed.
#[derive(Debug)]
pub struct Partial {
    pub(super) file: File,
    pub(super) domain: String,
    pub(super) id: PointId,
    /// The temporary name.
    pub(super) path: PathBuf,
    /// The name it gets.
    pub(super) target: PathBuf,
    pub(super) published: bool,
}

impl Partial {
    /// The restore point it will be.
    pub fn id(&self) -> PointId {
        self.id
    }

    /// Its temporary path, for the journal and for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The empty file, for a writer.
    pub fn file(&self) -> Result<File, Error> {
        self.file.try_clone().map_err(|source| self.error("open", source))
    }

    /// Makes the contents durable, gives the file its name and makes that durable. Never replaces a file.
    pub fn publish(mut self) -> Result<Point, Error> {
        let synced = step::reached(Step::ArchiveSync).and_then(|()| self.file.sync_all());
        synced.map_err(|source| self.error("publish", source))?;
        let bytes = self.file.metadata().map_err(|source| self.error("publish", source))?.len();
        let renamed = step::reached(Step::ArchiveRename).and_then(|()| rename_new(&self.path, &self.target));
        renamed.map_err(|source| self.error("publish", source))?;
        self.published = true;
        let folder = self.target.parent().unwrap_or(Path::new("."));
        let synced = step::reached(Step::ArchiveNamed).and_then(|()| durable::sync_dir(folder));
        synced.map_err(|source| self.error("publish", source))?;
        let (domain, path) = (std::mem::take(&mut self.domain), std::mem::take(&mut self.target));
        Ok(Point { domain, id: self.id, path, bytes, origin: Origin::Kvmbackup })
    }

    fn error(&self, action: &'static str, source: io::Error) -> Error {
        Error::File { action, path: self.path.clone(), source }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = step::reached(Step::PartialRemove).and_then(|()| durable::remove(&self.path))
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove a partial archive");
        }
    }
}

/// Renames without replacing. File systems that cannot do this in one call (NFS among them: rename(2), "NOTES") get a
/// second name and lose the first; those without hard links (exFAT, some SMB shares) are looked at before the rename, which is
/// enough as long as the lock of the run is held.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return Ok(result?),
    }
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(_) if fs::symlink_metadata(to).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}
