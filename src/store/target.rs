//! One place with restore points: a directory with archives, or a repository. Dispatches each operation to its kind. Must
//! not know that there can be a second place.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::TimeDelta;

use super::archive_writer::ArchiveWriter;
use super::archives::Archived;
use super::folder::{self, Folder};
use super::partial::Partial;
use super::point::Kind;
use super::script::Script;
use super::snapshots::Snapshots;
use super::{
    Domains, Error, Intent, Inventory, Left, Location, Point, PointReader, PointWriter, PointsByDomain, Salvage, writer,
};
use crate::model::{Codec, DomainRef, NewId, StoreKind};
use crate::repository::{self, Packs};
use crate::sys::durable;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;
use crate::sys::space::{self, Space};
use crate::sys::step::{self, Step};

/// A directory with one directory of archives per domain, or a repository in a directory or a bucket. No call waits
/// forever: a target that hangs is an error.
#[derive(Debug, Clone)]
pub(super) struct Target {
    folder: Folder,
    /// Set if the target is a repository.
    snapshots: Option<Arc<Snapshots>>,
    pub(super) patience: Patience,
}

impl Target {
    /// Opens the target in an existing directory, with this time limit for every call.
    pub(super) fn at(location: impl Into<Location>, patience: &Patience) -> Result<Target, Error> {
        let target = Target::of(location.into(), patience);
        if target.bucket().is_none() {
            target.call(Folder::check)?;
        }
        Ok(target)
    }

    /// The same, but creates the directory for archives if its parent exists: a missing parent may be an unmounted file
    /// system. A repository must exist.
    pub(super) fn at_or_create(location: impl Into<Location>, patience: &Patience) -> Result<Target, Error> {
        let target = Target::of(location.into(), patience);
        match &target.snapshots {
            Some(snapshots) if snapshots.is_remote() => snapshots.repository().map(drop)?,
            Some(snapshots) => target.call(Folder::check).and_then(|()| snapshots.repository().map(drop))?,
            None => target.call(Folder::make_target)?,
        }
        Ok(target)
    }

    /// Creates the repository, and its directory if that is missing. Returns the ID of the repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`]; if the repository exists.
    pub(super) fn init(location: Location, patience: &Patience) -> Result<String, Error> {
        let target = Target::of(location, patience);
        let snapshots = target.snapshots()?;
        if !snapshots.is_remote() {
            target.call(Folder::make_target)?;
        }
        snapshots.init()
    }

    /// Counts and measures what a repository contains.
    ///
    /// # Errors
    /// [`Error::NoRepository`]; if the repository is locked exclusively for a minute.
    pub(super) fn stats(&self, cancel: &Cancel) -> Result<Inventory, Error> {
        self.snapshots()?.stats(cancel)
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`]; if it does not exist, or the password is wrong.
    pub(super) fn expect_repository(&self) -> Result<(), Error> {
        self.snapshots()?.repository().map(drop)
    }

    /// ID of the repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`]; if it does not exist, or the password is wrong.
    pub(super) fn repository_id(&self) -> Result<String, Error> {
        Ok(self.snapshots()?.repository()?.id().to_string())
    }

    /// Bytes of all objects of a repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`].
    pub(super) fn stored_bytes(&self) -> Result<u64, Error> {
        Ok(Packs::of(self.snapshots()?.repository()?)?.stored_bytes)
    }

    /// Removes old temporary files from a repository in a directory; returns their number.
    ///
    /// # Errors
    /// [`Error::NoRepository`].
    pub(super) fn remove_leftovers(&self) -> Result<usize, Error> {
        self.snapshots()?.remove_leftovers()
    }

    /// Removes the locks of processes that no longer exist from a repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`].
    pub(super) fn remove_stale_locks(&self) -> Result<usize, Error> {
        Ok(repository::remove_stale(self.snapshots()?.repository()?)?)
    }

    /// Its kind.
    pub(super) fn kind(&self) -> StoreKind {
        if self.snapshots.is_some() { StoreKind::Repository } else { StoreKind::Archive }
    }

    /// Path or URL, for messages.
    pub(super) fn location(&self) -> &Path {
        &self.folder.backupdir
    }

    fn snapshots(&self) -> Result<&Snapshots, Error> {
        self.snapshots.as_deref().ok_or_else(|| Error::NoRepository { path: self.folder.backupdir.clone() })
    }

    pub(super) fn of(Location { dir, repository }: Location, patience: &Patience) -> Target {
        let snapshots = repository.map(|access| Arc::new(Snapshots::new(&dir, access, patience)));
        Target { folder: Folder { backupdir: dir }, snapshots, patience: patience.clone() }
    }

    /// The repository, if it is in a bucket: then no directory may be touched.
    fn bucket(&self) -> Option<&Snapshots> {
        self.snapshots.as_deref().filter(|snapshots| snapshots.is_remote())
    }

    /// Fails unless the bucket responds and contains a repository. A directory was checked when the store was opened.
    pub(super) fn reach(&self) -> Result<(), Error> {
        self.bucket().map_or(Ok(()), Snapshots::reach)
    }

    /// Checks whether a private directory can be created on the target; with `file`, everything that a backup does.
    /// Leaves nothing behind. For a bucket, `file` opens the repository, and creates and removes a lock.
    ///
    /// # Errors
    /// The first operation that failed.
    pub(super) fn try_out(&self, file: bool) -> Result<(), Error> {
        match self.bucket() {
            Some(snapshots) if file => snapshots.try_out(),
            Some(_) => Ok(()),
            None => self.call(move |folder| folder.try_out(file)),
        }
    }

    /// Space on its file system; `None` for a bucket, which has no size.
    pub(super) fn room(&self) -> Result<Option<Space>, Error> {
        if self.bucket().is_some() {
            return Ok(None);
        }
        self.call(|folder| space::of(&folder.backupdir).map(Some).map_err(|source| folder.unusable(source)))
    }

    /// The domains with a directory here, or with a snapshot.
    pub(super) fn domains(&self) -> Result<Domains, Error> {
        match &self.snapshots {
            Some(snapshots) => snapshots.domains(),
            None => self.call(Folder::domains),
        }
    }

    /// The restore points of a domain, oldest first. Reads its directory once and opens only archives of the legacy
    /// script, for their first few kilobytes.
    pub(super) fn points(&self, domain: &str) -> Result<Vec<Point>, Error> {
        let domain = domain.to_owned();
        match &self.snapshots {
            Some(snapshots) => snapshots.points(&domain),
            None => self.call(move |folder| folder.points(&domain)),
        }
    }

    /// The restore points of these domains.
    ///
    /// # Errors
    /// The target hangs, or the snapshots cannot be listed.
    pub(super) fn points_of(&self, domains: Vec<String>) -> Result<PointsByDomain, Error> {
        if let Some(snapshots) = &self.snapshots {
            // Listed once for all domains, because a listing costs time for every restore point.
            let wanted: HashSet<&str> = domains.iter().map(String::as_str).collect();
            let mut found = snapshots.points_by_domain(|name| wanted.contains(name))?;
            let points = |name: String| {
                let points = found.remove(&name).unwrap_or_default();
                (name, Ok(points))
            };
            return Ok(domains.into_iter().map(points).collect());
        }
        let points = |name: String| match self.points(&name) {
            Err(error) if error.is_stall() => Err(error),
            points => Ok((name, points)),
        };
        domains.into_iter().map(points).collect()
    }

    /// Begins a restore point of a domain. `note` receives the temporary path of an archive before the file is created;
    /// its error aborts.
    pub(super) fn begin<E: From<Error>>(
        &self,
        domain: &DomainRef,
        intent: &Intent,
        note: impl FnMut(&Path) -> Result<(), E>,
    ) -> Result<PointWriter, E> {
        Ok(PointWriter(match &self.snapshots {
            Some(snapshots) => writer::Inner::Snapshot(Box::new(snapshots.begin(domain, intent)?)),
            None => {
                let partial = self.create_noted(&domain.name, intent.id, intent.codec, note)?;
                let archive = ArchiveWriter::new(partial, intent.codec, intent.threads, &self.patience);
                writer::Inner::Archive(Box::new(archive))
            }
        }))
    }

    /// Opens a restore point for reading. After a signal every call fails with [`Error::Stopped`].
    pub(super) fn open(&self, point: &Point, cancel: &Cancel) -> Result<PointReader, Error> {
        match point.kind {
            Kind::Archive => Archived::open(point, &self.patience, cancel).map(PointReader::archive),
            Kind::Script { .. } => Script::open(point, &self.patience, cancel).map(PointReader::script),
            Kind::Snapshot { id } => self.snapshots()?.open(id, &point.path, cancel).map(PointReader::snapshot),
        }
    }

    /// What is left of a damaged restore point. `progress` receives the number of bytes that were read since its last
    /// call.
    pub(super) fn salvage(&self, point: &Point, cancel: &Cancel, progress: &mut dyn FnMut(u64)) -> Result<Left, Error> {
        match point.kind {
            Kind::Archive => {
                let found = Salvage::open_patiently(&point.path, &self.patience, cancel);
                found.map(Left::Archive).map_err(Error::archive(&point.path))
            }
            Kind::Script { .. } => Ok(Left::Stream),
            Kind::Snapshot { id } => self.snapshots()?.remains((id, &point.path), cancel, progress).map(Left::Snapshot),
        }
    }

    pub(super) fn create_noted<E: From<Error>>(
        &self,
        domain: &str,
        mut id: NewId,
        codec: Codec,
        mut note: impl FnMut(&Path) -> Result<(), E>,
    ) -> Result<Partial, E> {
        loop {
            let of = domain.to_owned();
            let free = self.call(move |folder| folder.free_name(&of, id, codec))?;
            note(&free.partial)?;
            let (folder, path) = (free.folder.clone(), free.partial.clone());
            let create =
                move || step::reached(Step::PartialCreate).and_then(|()| durable::create_private(&folder.at(&path)));
            let path = free.partial.clone();
            let created = self.call(move |_| match create() {
                // Another process took the name, or the file system treats another name as the same.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
                result => result.map(Some).map_err(|source| Error::File { action: "create", path, source }),
            })?;
            if let Some(file) = created {
                return Ok(Partial::new(file, domain, free, &self.patience));
            }
            id = NewId::Taken(free.id.time() + TimeDelta::seconds(1));
        }
    }

    /// Removes a restore point durably. Refuses one of the legacy script; a missing one is not an error.
    pub(super) fn remove(&self, point: &Point) -> Result<(), Error> {
        if point.protected {
            return Err(Error::Protected { domain: point.domain.clone(), id: point.id, path: point.path.clone() });
        }
        if point.kept_because().is_some() {
            return Err(Error::NotOurs { path: point.path.clone() });
        }
        if let Kind::Snapshot { id } = point.kind {
            return self.snapshots()?.remove(id);
        }
        let path = point.path.clone();
        self.call(move |_| folder::remove(&path))
    }

    /// Protects a restore point from being removed, or ends that. Refuses one of the legacy script, which is never removed.
    /// A protected snapshot of a repository has another ID there.
    pub(super) fn protect(&self, point: &Point, protected: bool) -> Result<(), Error> {
        let (path, id) = (point.path.clone(), point.id);
        match point.kind {
            Kind::Script { .. } => Err(Error::NotOurs { path }),
            _ if point.protected == protected => Ok(()),
            Kind::Snapshot { id } => self.snapshots()?.protect(id, protected),
            Kind::Archive => self.call(move |_| folder::protect(&path, id, protected)),
        }
    }

    /// Unfinished archives of a domain.
    pub(super) fn partials(&self, domain: &str) -> Result<Vec<PathBuf>, Error> {
        let domain = domain.to_owned();
        match &self.snapshots {
            // A killed run leaves only data without a snapshot, which `restic prune` removes.
            Some(_) => Ok(Vec::new()),
            None => self.call(move |folder| folder.partials(&domain)),
        }
    }

    /// Runs a call on the target in a thread that is abandoned if the target hangs.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let folder = self.folder.clone();
        self.patience.call(move || work(&folder)).unwrap_or_else(|source| Err(self.folder.unusable(source)))
    }
}
