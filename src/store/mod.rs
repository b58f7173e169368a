//! Where restore points live: `<backupdir>/<domain>/<domain>-20261122T020000Z.tar.zst`.
//!
//! Owns: names, partial files, listing, deletion. Must not: look into archives (but for the day in those of the seed
//! script, whose names tell none), decide what to delete, or lock anything: one run at a time is its caller's duty.

mod archives;
mod contents;
#[cfg(test)]
mod contract;
mod error;
mod folder;
mod name;
mod partial;
mod reader;
mod script;
#[cfg(test)]
mod tests;
mod trial;
mod whose;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};

pub use contents::{Contents, SavedDisk};
pub use error::Error;
pub use reader::{Definition, DiskReader, Entry, FileReader, PointReader};
pub use writer::{DiskSource, PointWriter, Sink};

pub use crate::archive::Manifest;
pub use crate::archive::manifest::{
    BootEntry, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, DiskEntry, FORMAT, FileEntry, disk_member,
};
pub use crate::archive::salvage::{Remains, Salvage, Trust};
use crate::model::{Codec, PointId};
use crate::sys::durable;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;
use crate::sys::space::{self, Space};
use crate::sys::step::{self, Step};
use folder::Folder;
use partial::Partial;

/// The folder that holds one folder a domain. No call on it waits for ever: a target that hangs is an error.
#[derive(Debug, Clone)]
pub struct Store {
    folder: Folder,
    patience: Patience,
}

/// Whether a path is that of an archive of this domain that was not finished, by its name.
pub fn is_partial(path: &Path, domain: &str) -> bool {
    let file = path.file_name().and_then(|file| file.to_str());
    matches!(file.and_then(|file| name::parse(domain, file)), Some(name::Known::Partial(_)))
}

/// A restore point as its file shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The domain's name.
    pub domain: String,
    /// When it was taken. For an archive of the seed script, when the file was last changed, or the day inside it if these
    /// disagree.
    pub id: PointId,
    /// Its length, in bytes.
    pub bytes: u64,
    path: PathBuf,
    kind: Kind,
}

/// Who made a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// This program: an archive.
    Archive,
    /// The legacy script; `NAME.tar.gz` has rotation 0, `NAME.tar.gz.1` has 1. Such a point is never removed.
    Script {
        /// The number at the end of its name.
        rotation: u32,
    },
}

impl Point {
    /// Where it is, for messages and records.
    pub fn location(&self) -> &Path {
        &self.path
    }

    /// Who made it, as `list` shows it: `kvmbackup` or `seed`, the legacy script.
    pub fn origin(&self) -> &'static str {
        match self.kind {
            Kind::Archive => "kvmbackup",
            Kind::Script { .. } => "seed",
        }
    }

    /// Why it is never removed; `None` if it may be.
    pub fn kept_because(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Archive => None,
            Kind::Script { .. } => Some("made by the seed script: never removed"),
        }
    }

    /// One that is nowhere.
    #[cfg(test)]
    pub fn sample(domain: &str, bytes: u64) -> Point {
        let id = PointId::at(DateTime::UNIX_EPOCH);
        Point { domain: domain.to_owned(), id, bytes, path: "/b/a".into(), kind: Kind::Archive }
    }
}

/// The domains that have a folder in a target.
#[derive(Debug)]
pub struct Domains {
    /// Their names, sorted. There may be no restore point in a folder, or it cannot be read: [`Store::points`] tells.
    pub names: Vec<String>,
    /// Folders that do not tell whose they are, because they cannot be looked into.
    pub failures: Vec<Error>,
}

impl Store {
    /// The store in a folder that exists, with as much patience for every call on it.
    pub fn at(backupdir: &Path, patience: &Patience) -> Result<Store, Error> {
        let store = Store::of(backupdir, patience);
        store.call(Folder::check).map(|()| store)
    }

    /// The same, and makes the folder if only it is missing: one whose parent is not there may be a mount that is not.
    pub fn at_or_create(backupdir: &Path, patience: &Patience) -> Result<Store, Error> {
        let store = Store::of(backupdir, patience);
        store.call(Folder::make_target).map(|()| store)
    }

    fn of(backupdir: &Path, patience: &Patience) -> Store {
        Store { folder: Folder { backupdir: backupdir.to_owned() }, patience: patience.clone() }
    }

    /// How long a call on it may take, and whether one has taken longer.
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Tries whether the target takes a private folder; with `file`, all that a backup does. Leaves nothing there.
    ///
    /// # Errors
    /// What a backup could not do.
    pub fn try_out(&self, file: bool) -> Result<(), Error> {
        self.call(move |folder| folder.try_out(file))
    }

    /// The room of its file system.
    pub fn room(&self) -> Result<Space, Error> {
        self.call(|folder| space::of(&folder.backupdir).map_err(|source| folder.unusable(source)))
    }

    /// The domains that have a folder here.
    pub fn domains(&self) -> Result<Domains, Error> {
        self.call(Folder::domains)
    }

    /// The restore points of a domain, oldest first. One reading of its folder; none is opened, but those of the seed script
    /// for their first few kilobytes.
    pub fn points(&self, domain: &str) -> Result<Vec<Point>, Error> {
        let domain = domain.to_owned();
        self.call(move |folder| folder.points(&domain))
    }

    /// Begins a domain's restore point, taken at `at` or, where that second is taken, one of the next. `note` hears the
    /// temporary path before there is a file; its error ends it.
    pub fn begin<E: From<Error>>(
        &self,
        domain: &str,
        at: DateTime<Utc>,
        codec: Codec,
        note: impl FnMut(&Path) -> Result<(), E>,
    ) -> Result<PointWriter, E> {
        Ok(PointWriter::new(self.create_noted(domain, at, codec, note)?, codec, &self.patience))
    }

    /// Opens a restore point to read it. A signal ends every call on it with [`Error::Stopped`].
    pub fn open(&self, point: &Point, cancel: &Cancel) -> Result<PointReader, Error> {
        PointReader::open(point, &self.patience, cancel)
    }

    /// What is left of a damaged restore point, found piece by piece; `None` if the point is one stream, which
    /// [`PointReader::each`] reads as far as it goes.
    pub fn salvage(&self, point: &Point, cancel: &Cancel) -> Result<Option<Salvage>, Error> {
        match point.kind {
            Kind::Archive => {
                let found = Salvage::open_patiently(&point.path, &self.patience, cancel);
                found.map(Some).map_err(Error::archive(&point.path))
            }
            Kind::Script { .. } => Ok(None),
        }
    }

    /// [`Store::create_noted`] without a note.
    #[cfg(test)]
    fn create(&self, domain: &str, at: DateTime<Utc>, codec: Codec) -> Result<Partial, Error> {
        self.create_noted(domain, at, codec, |_| Ok(()))
    }

    fn create_noted<E: From<Error>>(
        &self,
        domain: &str,
        at: DateTime<Utc>,
        codec: Codec,
        mut note: impl FnMut(&Path) -> Result<(), E>,
    ) -> Result<Partial, E> {
        let mut at = at;
        loop {
            let of = domain.to_owned();
            let free = self.call(move |folder| folder.free_name(&of, at, codec))?;
            note(&free.partial)?;
            let (folder, path) = (free.folder.clone(), free.partial.clone());
            let create =
                move || step::reached(Step::PartialCreate).and_then(|()| durable::create_private(&folder.at(&path)));
            let path = free.partial.clone();
            let created = self.call(move |_| match create() {
                // Another process has the name, or the file system takes another one for it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
                result => result.map(Some).map_err(|source| Error::File { action: "create", path, source }),
            })?;
            if let Some(file) = created {
                return Ok(Partial::new(file, domain, free, &self.patience));
            }
            at = free.id.time() + TimeDelta::seconds(1);
        }
    }

    /// Removes a restore point for good. One of the seed script is refused; one that is gone is no error.
    pub fn remove(&self, point: &Point) -> Result<(), Error> {
        if point.kept_because().is_some() {
            return Err(Error::NotOurs { path: point.path.clone() });
        }
        let path = point.path.clone();
        self.call(move |_| folder::remove(&path))
    }

    /// What unfinished runs have left of a domain.
    pub fn partials(&self, domain: &str) -> Result<Vec<PathBuf>, Error> {
        let domain = domain.to_owned();
        self.call(move |folder| folder.partials(&domain))
    }

    /// Does something with the target in a thread that is left behind when the target hangs.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let folder = self.folder.clone();
        self.patience.call(move || work(&folder)).unwrap_or_else(|source| Err(self.folder.unusable(source)))
    }
}
