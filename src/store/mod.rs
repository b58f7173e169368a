//! Stores restore points of every kind behind one set of types: [`Store`], [`PointWriter`], [`PointReader`].
//!
//! Names, lists, writes, reads and removes them, and knows which program made one. Must not decide what to delete or
//! take locks: the caller ensures that only one run is active.

mod archive_writer;
mod archives;
mod contents;
#[cfg(test)]
mod contract;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod folder;
mod name;
mod partial;
mod point;
mod reader;
mod script;
mod snapshots;
mod target;
#[cfg(test)]
mod tests;
mod trial;
mod whose;
mod writer;

use std::iter;
use std::path::{Path, PathBuf};

pub use contents::{Contents, SavedDisk};
pub use error::Error;
pub use partial::discard;
pub use point::Point;
pub use reader::{Definition, DiskReader, Entry, FileReader, PointReader, Sampled};
pub use snapshots::{Access, BucketAccess, FileRemains, SnapshotRemains, guest, is_protected};
pub use writer::{Added, DiskSource, PointWriter, Sink};

pub use crate::archive::Manifest;
pub use crate::archive::manifest::{
    BootEntry, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, DiskEntry, FORMAT, FileEntry, disk_member,
};
pub use crate::archive::salvage::{Remains, Salvage, Trust};
use crate::model::{Codec, DomainRef, NewId, StoreKind};
pub use crate::repository::TAG;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;
use crate::sys::space::Space;
use target::Target;

/// Where restore points are: one target, or two of different kinds, with new restore points going to the first.
#[derive(Debug, Clone)]
pub struct Store {
    target: Target,
    other: Option<Target>,
}

/// Where one target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The directory; for a repository in a bucket, its URL, which is only for messages.
    pub dir: PathBuf,
    /// How the repository is opened; `None` if it contains archives.
    pub repository: Option<Access>,
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Location {
    fn from(dir: &P) -> Location {
        Location { dir: dir.as_ref().to_owned(), repository: None }
    }
}

/// How a restore point is written.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Which ID it gets.
    pub id: NewId,
    /// Codec of an archive.
    pub codec: Codec,
    /// Number of threads that compress, at most.
    pub threads: usize,
    /// Stops waiting for another process.
    pub cancel: Cancel,
}

/// Whether the name is that of an unfinished archive of this domain.
pub fn is_partial(path: &Path, domain: &str) -> bool {
    let file = path.file_name().and_then(|file| file.to_str());
    matches!(file.and_then(|file| name::parse(domain, file)), Some(name::Known::Partial(_)))
}

/// What a repository contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Inventory {
    /// Number of restore points of this program.
    pub restore_points: u64,
    /// Number of domains with a restore point.
    pub domains: u64,
    /// Number of packs.
    pub packs: u64,
    /// Number of blobs that the indexes list.
    pub blobs: u64,
    /// Bytes of all objects.
    pub stored_bytes: u64,
}

/// What is left of a damaged restore point.
pub enum Left {
    /// Of an archive.
    Archive(Salvage),
    /// Of a snapshot.
    Snapshot(SnapshotRemains),
    /// The point is one stream, which [`PointReader::each`] reads as far as possible.
    Stream,
}

/// Domains with their restore points, oldest first, or why their directory could not be read.
pub type PointsByDomain = Vec<(String, Result<Vec<Point>, Error>)>;

/// The domains with a directory in a target.
#[derive(Debug)]
pub struct Domains {
    /// Sorted names. A directory may contain no restore point or be unreadable: see [`Store::points`].
    pub names: Vec<String>,
    /// Directories that could not be attributed to a domain because they cannot be read.
    pub failures: Vec<Error>,
}

impl Store {
    /// Opens the store in an existing directory, with this time limit for every call.
    pub fn at(location: impl Into<Location>, patience: &Patience) -> Result<Store, Error> {
        Ok(Store::of(Target::at(location, patience)?))
    }

    /// The same, but creates the directory for archives if its parent exists: a missing parent may be an unmounted file
    /// system. A repository must exist.
    pub fn at_or_create(location: impl Into<Location>, patience: &Patience) -> Result<Store, Error> {
        Ok(Store::of(Target::at_or_create(location, patience)?))
    }

    /// Creates the repository, and its directory if that is missing. Returns the ID of the repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`]; if the repository exists.
    pub fn init(location: Location, patience: &Patience) -> Result<String, Error> {
        Target::init(location, patience)
    }

    /// Not opened yet, so that it need not exist.
    #[cfg(test)]
    fn unopened(location: Location, patience: &Patience) -> Store {
        Store::of(Target::of(location, patience))
    }

    fn of(target: Target) -> Store {
        Store { target, other: None }
    }

    /// This store, which also has the restore points of another one, of the other kind.
    #[must_use]
    pub fn beside(self, other: Store) -> Store {
        Store { other: Some(other.target), ..self }
    }

    /// This store with new restore points going to the target of this kind, if it has one.
    pub fn writing_to(&self, kind: StoreKind) -> Option<Store> {
        let Store { target, other } = self.clone();
        match other {
            _ if target.kind() == kind => Some(self.clone()),
            Some(other) if other.kind() == kind => Some(Store { target: other, other: Some(target) }),
            _ => None,
        }
    }

    /// Only the target of this kind, if there is one.
    pub fn only(&self, kind: StoreKind) -> Option<Store> {
        self.writing_to(kind).map(|store| Store::of(store.target))
    }

    /// The kind of new restore points.
    pub fn kind(&self) -> StoreKind {
        self.target.kind()
    }

    /// Path or URL of the target of new restore points, for messages.
    pub fn location(&self) -> &Path {
        self.target.location()
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        iter::once(&self.target).chain(&self.other)
    }

    /// The target with a restore point.
    fn of_point(&self, point: &Point) -> &Target {
        self.targets().find(|target| target.kind() == point.store()).unwrap_or(&self.target)
    }

    /// The target that is a repository; any other one fails.
    fn repository(&self) -> &Target {
        self.targets().find(|target| target.kind() == StoreKind::Repository).unwrap_or(&self.target)
    }

    /// Counts and measures what a repository contains.
    ///
    /// # Errors
    /// [`Error::NoRepository`]; if the repository is locked exclusively for a minute.
    pub fn stats(&self, cancel: &Cancel) -> Result<Inventory, Error> {
        self.repository().stats(cancel)
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`]; if it does not exist, or the password is wrong.
    pub fn expect_repository(&self) -> Result<(), Error> {
        self.repository().expect_repository()
    }

    /// ID of the repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`]; if it does not exist, or the password is wrong.
    pub fn repository_id(&self) -> Result<String, Error> {
        self.repository().repository_id()
    }

    /// Bytes of all objects of a repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`].
    pub fn stored_bytes(&self) -> Result<u64, Error> {
        self.repository().stored_bytes()
    }

    /// Removes old temporary files from a repository in a directory; returns their number.
    ///
    /// # Errors
    /// [`Error::NoRepository`].
    pub fn remove_leftovers(&self) -> Result<usize, Error> {
        self.repository().remove_leftovers()
    }

    /// Removes the locks of processes that no longer exist from a repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`].
    pub fn remove_stale_locks(&self) -> Result<usize, Error> {
        self.repository().remove_stale_locks()
    }

    /// Fails unless the bucket responds and contains a repository. A directory was checked when the store was opened.
    pub fn reach(&self) -> Result<(), Error> {
        self.target.reach()
    }

    /// The time limit for calls, which also remembers a hung one.
    pub fn patience(&self) -> &Patience {
        &self.target.patience
    }

    /// Checks whether a private directory can be created on the target of new restore points; with `file`, everything
    /// that a backup does. Leaves nothing behind. For a bucket, `file` opens the repository, and creates and removes a
    /// lock.
    ///
    /// # Errors
    /// The first operation that failed.
    pub fn try_out(&self, file: bool) -> Result<(), Error> {
        self.target.try_out(file)
    }

    /// Space on the file system of the target of new restore points; `None` for a bucket, which has no size.
    pub fn room(&self) -> Result<Option<Space>, Error> {
        self.target.room()
    }

    /// The domains with a directory here, or with a snapshot.
    pub fn domains(&self) -> Result<Domains, Error> {
        let mut all = self.target.domains()?;
        if let Some(other) = &self.other {
            let more = other.domains()?;
            all.names.extend(more.names);
            all.names.sort();
            all.names.dedup();
            all.failures.extend(more.failures);
        }
        Ok(all)
    }

    /// The restore points of a domain, oldest first. A point and its copy in the other store have the same ID. Reads a
    /// directory once and opens only archives of the legacy script, for their first few kilobytes.
    pub fn points(&self, domain: &str) -> Result<Vec<Point>, Error> {
        let mut points = self.target.points(domain)?;
        if let Some(other) = &self.other {
            points.extend(other.points(domain)?);
            sort(&mut points);
        }
        Ok(points)
    }

    /// The restore points of these domains.
    ///
    /// # Errors
    /// The target hangs, or the snapshots cannot be listed.
    pub fn points_of(&self, domains: Vec<String>) -> Result<PointsByDomain, Error> {
        let Some(other) = &self.other else { return self.target.points_of(domains) };
        let more = other.points_of(domains.clone())?;
        let all = self.target.points_of(domains)?.into_iter().zip(more).map(|((name, points), (_, more))| {
            let both = points.and_then(|mut points| {
                points.extend(more?);
                sort(&mut points);
                Ok(points)
            });
            (name, both)
        });
        Ok(all.collect())
    }

    /// Begins a restore point of a domain. `note` receives the temporary path of an archive before the file is created;
    /// its error aborts.
    pub fn begin<E: From<Error>>(
        &self,
        domain: &DomainRef,
        intent: &Intent,
        note: impl FnMut(&Path) -> Result<(), E>,
    ) -> Result<PointWriter, E> {
        let mut intent = intent.clone();
        if let (NewId::Taken(_), Some(other)) = (intent.id, &self.other) {
            let taken = other.points(&domain.name)?.into_iter().map(|point| point.id).collect();
            intent.id = NewId::Taken(intent.id.beside(&taken).time());
        }
        self.target.begin(domain, &intent, note)
    }

    /// Opens a restore point for reading. After a signal every call fails with [`Error::Stopped`].
    pub fn open(&self, point: &Point, cancel: &Cancel) -> Result<PointReader, Error> {
        self.of_point(point).open(point, cancel)
    }

    /// What is left of a damaged restore point. `progress` receives the number of bytes that were read since its last
    /// call.
    pub fn salvage(&self, point: &Point, cancel: &Cancel, progress: &mut dyn FnMut(u64)) -> Result<Left, Error> {
        self.of_point(point).salvage(point, cancel, progress)
    }

    /// Removes a restore point durably. Refuses one of the legacy script; a missing one is not an error.
    pub fn remove(&self, point: &Point) -> Result<(), Error> {
        self.of_point(point).remove(point)
    }

    /// Protects a restore point from being removed, or ends that. Refuses one of the legacy script, which is never removed.
    /// A protected snapshot of a repository has another ID there.
    pub fn protect(&self, point: &Point, protected: bool) -> Result<(), Error> {
        self.of_point(point).protect(point, protected)
    }

    /// Unfinished archives of a domain.
    pub fn partials(&self, domain: &str) -> Result<Vec<PathBuf>, Error> {
        let mut partials = Vec::new();
        for target in self.targets() {
            partials.extend(target.partials(domain)?);
        }
        Ok(partials)
    }

    /// Begins an archive, without a note.
    #[cfg(test)]
    fn create(&self, domain: &str, at: chrono::DateTime<chrono::Utc>, codec: Codec) -> Result<partial::Partial, Error> {
        self.target.create_noted(domain, NewId::Taken(at), codec, |_| Ok(()))
    }
}

/// Oldest first; the copy in the repository comes last, because it is usually faster to read.
fn sort(points: &mut [Point]) {
    points.sort_by_key(|point| (point.id, point.store()));
}
