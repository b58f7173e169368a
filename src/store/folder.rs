//! The file system calls on the target: listing, free names, new files, removal. Must not be used outside the store,
//! which limits how long a caller waits.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike, Days, TimeDelta};
use rustix::fs::FileType;

use super::name::{self, Known};
use super::point::Kind;
use super::whose;
use super::{Domains, Error, Point};
use crate::archive::script::ScriptArchive;
use crate::model::{Codec, NewId, PointId};
use crate::sys::durable;
use crate::sys::opened::{self, Opened};
use crate::sys::step::{self, Step};

/// Plausible years of a modification time; [`PointId`] can represent them.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=9999;

/// The target: one directory per domain.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) backupdir: PathBuf,
}

/// A name that no file has.
#[derive(Debug, Clone)]
pub(super) struct Free {
    pub(super) id: PointId,
    /// Directory in which the names are free.
    pub(super) folder: Opened,
    /// Path while the archive is being written.
    pub(super) partial: PathBuf,
    /// Final path.
    pub(super) archive: PathBuf,
}

impl Folder {
    /// Fails unless the target is an existing directory.
    pub(super) fn check(&self) -> Result<(), Error> {
        let status = fs::metadata(&self.backupdir).map_err(|source| self.unusable(source))?;
        if status.is_dir() { Ok(()) } else { Err(self.unusable(io::ErrorKind::NotADirectory.into())) }
    }

    /// The same, but creates the directory if its parent exists.
    pub(super) fn make_target(&self) -> Result<(), Error> {
        match step::reached(Step::TargetFolder).and_then(|()| fs::create_dir(&self.backupdir)) {
            Ok(()) => {
                let private = make_private(&self.backupdir);
                let parent = self.backupdir.parent().unwrap_or(Path::new("/"));
                private.and_then(|()| durable::sync_dir(parent)).map_err(|source| self.unusable(source))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(self.unusable(source)),
        }
        self.check()
    }

    pub(super) fn unusable(&self, source: io::Error) -> Error {
        Error::Target { path: self.backupdir.clone(), source }
    }

    /// The domains that have a directory here, sorted. It may contain no restore point or be unreadable.
    pub(super) fn domains(&self) -> Result<Domains, Error> {
        let (mut names, mut failures) = (BTreeSet::new(), Vec::new());
        let folders = self.folders()?;
        let folds = self.folds(&folders);
        for component in &folders {
            let folder = self.backupdir.join(component);
            match whose::domain_of(component, &folder) {
                Ok(Some(domain)) => drop(names.insert(domain)),
                Ok(None) => {}
                Err(source) => failures.push(Error::File { action: "list", path: folder.clone(), source }),
            }
            if folds {
                names.extend(whose::guests_in(component, &folder));
            }
        }
        Ok(Domains { names: names.into_iter().collect(), failures })
    }

    /// The names of all directories and links here. Operators use links to store a domain elsewhere.
    fn folders(&self) -> Result<Vec<String>, Error> {
        let is_folder = |entry: &DirEntry| match entry.file_type() {
            Ok(kind) if kind.is_file() => false,
            Ok(kind) if kind.is_symlink() => {
                fs::metadata(self.backupdir.join(entry.file_name())).map_or(true, |status| status.is_dir())
            }
            _ => true,
        };
        let folders = self.entries()?.into_iter().filter(is_folder);
        Ok(folders.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn entries(&self) -> Result<Vec<DirEntry>, Error> {
        // A target that was unmounted must not look like an empty one.
        list(&self.backupdir)?.ok_or_else(|| self.unusable(io::ErrorKind::NotFound.into()))
    }

    /// Whether the file system ignores case.
    fn folds(&self, folders: &[String]) -> bool {
        let identity = |component: &str| fs::symlink_metadata(self.backupdir.join(component)).ok();
        let pair = folders.iter().find_map(|component| Some((component, name::other_case(component)?)));
        let Some((component, other)) = pair else { return false };
        match (identity(component), identity(&other)) {
            (Some(a), Some(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()) && !folders.contains(&other),
            _ => false,
        }
    }

    /// The restore points of a domain, oldest first. Reads its directory once and opens only archives of the legacy
    /// script, for their first few kilobytes.
    pub(super) fn points(&self, domain: &str) -> Result<Vec<Point>, Error> {
        let (mut points, mut scripts, mut protected) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (path, known, status) in self.files(domain)? {
            let bytes = status.as_ref().map_or(0, Metadata::len);
            let domain = domain.to_owned();
            match known {
                Known::Archive(id) => {
                    points.push(Point { domain, id, bytes, guest: None, protected: false, path, kind: Kind::Archive })
                }
                Known::Script(rotation) => {
                    let id = script_id(&path, &domain, status.as_ref());
                    scripts.push(Point {
                        domain,
                        id,
                        bytes,
                        guest: None,
                        protected: false,
                        path,
                        kind: Kind::Script { rotation },
                    });
                }
                Known::Protection(id) => drop(protected.insert(id)),
                Known::Partial(_) => {}
            }
        }
        for point in &mut points {
            point.protected = protected.contains(&point.id);
        }
        // IDs are unique within a domain: of the legacy archives with the same second, older ones are moved to an
        // earlier one.
        scripts.sort_by_key(|point| (std::cmp::Reverse(point.id), rotation(point)));
        let before = |id: PointId| PointId::at(id.time() - TimeDelta::seconds(1));
        let taken: BTreeSet<PointId> = points.iter().map(|point| point.id).collect();
        let mut free: Option<PointId> = None;
        for mut script in scripts {
            // Earlier iterations handled younger archives, so of the older IDs only our own are taken.
            script.id = free.map_or(script.id, |free| free.min(script.id));
            while taken.contains(&script.id) {
                script.id = before(script.id);
            }
            free = Some(before(script.id));
            points.push(script);
        }
        points.sort_by_key(|point| point.id);
        Ok(points)
    }

    /// The name of a new point. Creates the directory of the domain.
    pub(super) fn free_name(&self, domain: &str, id: NewId, codec: Codec) -> Result<Free, Error> {
        let (folder, opened) = self.make_folder(domain)?;
        let component = name::encode(domain);
        let known = self.files(domain)?.into_iter().map(|(_, known, _)| known);
        let taken: BTreeSet<PointId> = known.filter_map(Known::id).collect();
        let id = id.beside(&taken);
        let partial = folder.join(name::partial(&component, id));
        Ok(Free { id, folder: opened, partial, archive: folder.join(name::archive(&component, id, codec)) })
    }

    /// Unfinished archives of a domain.
    pub(super) fn partials(&self, domain: &str) -> Result<Vec<PathBuf>, Error> {
        let files = self.files(domain)?.into_iter();
        let mut partials: Vec<_> =
            files.filter_map(|(path, known, _)| matches!(known, Known::Partial(_)).then_some(path)).collect();
        partials.sort();
        Ok(partials)
    }

    /// Creates and opens the directory for new archives of a domain. It belongs to this domain alone: a directory
    /// that the file system also uses for another domain, or lists under another name, is not used.
    fn make_folder(&self, domain: &str) -> Result<(PathBuf, Opened), Error> {
        let (plain, all) = (name::encode(domain), name::encode_all(domain));
        if (name::is_portable(&plain) || self.lists(&plain)?) && self.make(&plain)? {
            return self.open_folder(domain, &plain);
        }
        self.make(&all)?;
        self.open_folder(domain, &all)
    }

    /// Creates a directory if it is missing; returns whether it is listed under exactly this name.
    fn make(&self, component: &str) -> Result<bool, Error> {
        let folder = self.backupdir.join(component);
        let error = |source| Error::File { action: "create", path: folder.clone(), source };
        match step::reached(Step::DomainFolder).and_then(|()| fs::create_dir(&folder)) {
            Ok(()) => {
                make_private(&folder).map_err(error)?;
                durable::sync_dir(&self.backupdir).map_err(error)?;
            }
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(error(source)),
            Err(_) => {}
        }
        self.lists(component)
    }

    fn lists(&self, component: &str) -> Result<bool, Error> {
        Ok(self.entries()?.iter().any(|entry| entry.file_name() == component))
    }

    fn open_folder(&self, domain: &str, component: &str) -> Result<(PathBuf, Opened), Error> {
        let folder = self.backupdir.join(component);
        let error = |source| Error::File { action: "open", path: folder.clone(), source };
        let opened = Opened::open(&folder).map_err(error)?;
        if name::is_shortened(component) {
            note(domain, component, &opened).map_err(error)?;
        }
        Ok((folder, opened))
    }

    /// The regular files of a domain whose names are those of restore points. A file without metadata could not be
    /// examined; opening it returns the error. The legacy script did not encode names, so its directory may be
    /// another one.
    fn files(&self, domain: &str) -> Result<Vec<(PathBuf, Known, Option<Metadata>)>, Error> {
        let is_component = !matches!(domain, "" | "." | "..") && !domain.contains(['/', '\0']);
        let mut folders = vec![(name::encode(domain), true), (name::encode_all(domain), true)];
        folders.dedup();
        if is_component && folders.iter().all(|(folder, _)| folder != domain) {
            folders.push((domain.to_owned(), false));
        }
        let mut files = Vec::new();
        for (folder, is_ours) in folders {
            let folder = self.backupdir.join(folder);
            for entry in list(&folder)?.unwrap_or_default() {
                let known = entry.file_name().to_str().and_then(|file| name::parse(domain, file));
                let Some(known) = known.filter(|known| is_ours || matches!(known, Known::Script(_))) else { continue };
                let status = match entry.metadata() {
                    Ok(status) if !status.is_file() => {
                        let kind = FileType::from_raw_mode(status.mode());
                        let path = folder.join(entry.file_name());
                        tracing::warn!("ignoring {}: {}", path.display(), opened::not_regular(kind));
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    status => status.ok(),
                };
                files.push((folder.join(entry.file_name()), known, status));
            }
        }
        Ok(files)
    }
}

/// For a new directory.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    durable::set_mode(&File::open(folder)?, 0o700)
}

/// Writes the name of a domain to a file in its directory, unless it is there. Anything else with that file name is
/// replaced, because without it the archives cannot be attributed to a domain.
fn note(domain: &str, component: &str, folder: &Opened) -> io::Result<()> {
    match whose::noted(component, folder) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(domain, folder = component, "{error}; rewriting it");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    step::reached(Step::DomainFolder)?;
    durable::write(&folder.path().join(name::NAME_FILE), domain.as_bytes())
}

/// Creates or removes the mark that protects an archive.
pub(super) fn protect(archive: &Path, id: PointId, protected: bool) -> Result<(), Error> {
    let folder = archive.parent().unwrap_or(Path::new("."));
    let component = archive.file_name().and_then(OsStr::to_str).and_then(name::component_of).unwrap_or_default();
    let mark = folder.join(name::protection(component, id));
    let changed = Opened::open(folder).and_then(|opened| {
        step::reached(Step::PointProtect)?;
        match protected {
            true => durable::write(&mark, b""),
            false => durable::remove(&opened.at(&mark)).and_then(|()| opened.sync()),
        }
    });
    changed.map_err(|source| Error::File { action: "change the protection of", path: archive.to_owned(), source })
}

/// The entries of a directory; `None` if it does not exist.
pub(super) fn list(folder: &Path) -> Result<Option<Vec<DirEntry>>, Error> {
    match opened::entries(folder) {
        Err(error) if is_absent(&error) => Ok(None),
        result => result.map(Some).map_err(|source| Error::File { action: "list", path: folder.to_owned(), source }),
    }
}

/// Whether an error means that the file does not exist, rather than that it cannot be examined.
pub(super) fn is_absent(error: &io::Error) -> bool {
    // A name that is too long cannot exist either.
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename)
}

/// When an archive of the legacy script was made: its modification time, unless the date inside contradicts it.
fn script_id(path: &Path, domain: &str, status: Option<&Metadata>) -> PointId {
    let changed = status.and_then(|status| DateTime::from_timestamp(status.mtime(), 0));
    // Some file systems store times outside the calendar.
    let changed = changed.filter(|time| YEARS.contains(&time.year())).unwrap_or(DateTime::UNIX_EPOCH);
    // The file may have been replaced since it was listed.
    let day = opened::open_file(path).ok().and_then(|file| ScriptArchive::new(file, path, domain).date().ok());
    let midnight = day.and_then(|day| Some(day.and_hms_opt(0, 0, 0)?.and_utc()));
    PointId::at(match midnight {
        // The date is in the host's time zone, up to 14 hours off, and the backup may have ended after midnight.
        Some(day) if !(day - Days::new(1)..day + Days::new(3)).contains(&changed) => day,
        _ => changed,
    })
}

fn rotation(point: &Point) -> u32 {
    match point.kind {
        Kind::Script { rotation } => rotation,
        Kind::Archive | Kind::Snapshot { .. } => 0,
    }
}

/// Removes a file durably; a missing one is not an error.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| folder.as_os_str() != OsStr::new("")).unwrap_or(Path::new("."));
    let removed = Opened::open(folder).and_then(|folder| {
        step::reached(Step::PointRemove)?;
        durable::remove(&folder.at(path))?;
        folder.sync()
    });
    removed.map_err(|source| Error::File { action: "remove", path: path.to_owned(), source })
}
