//! Where restore points live: `<backupdir>/<domain>/<domain>-20261122T020000Z.tar.zst`.
//!
//! Owns: names, partial files, listing, deletion. Must not: look into archives (but for the day in those of the seed
//! script, whose names tell none), decide what to delete, or lock anything: one run at a time is its caller's duty.

mod error;
mod name;
mod partial;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Days, TimeDelta, Utc};

pub use error::Error;
pub use partial::Partial;

use crate::archive::seed::Seed;
use crate::model::{Codec, PointId};
use crate::sys::durable;
use crate::sys::step::{self, Step};
use name::Known;

/// Seconds that [`Store::create`] looks ahead for a free name.
const MAX_AHEAD: i64 = 1000;

/// The folder that holds one folder a domain.
#[derive(Debug, Clone)]
pub struct Store {
    backupdir: PathBuf,
}

/// A restore point as its file shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The domain's name.
    pub domain: String,
    /// When it was taken. For an archive of the seed script, when the file was last changed, or the day inside it if these
    /// disagree.
    pub id: PointId,
    /// The archive.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Who made it.
    pub origin: Origin,
}

/// Who made an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This program.
    Kvmbackup,
    /// The seed script; `NAME.tar.gz` has rotation 0, `NAME.tar.gz.1` has 1. Such a point is never removed.
    Seed {
        /// The number at the end of its name.
        rotation: u32,
    },
}

impl Store {
    /// The store in a folder that exists.
    pub fn open(backupdir: &Path) -> Result<Store, Error> {
        let target = |source| Error::Target { path: backupdir.to_owned(), source };
        if !fs::metadata(backupdir).map_err(target)?.is_dir() {
            return Err(target(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Store { backupdir: backupdir.to_owned() })
    }

    /// The same, and makes the folder if only it is missing: one whose parent is not there may be a mount that is not.
    pub fn open_or_create(backupdir: &Path) -> Result<Store, Error> {
        match step::reached(Step::TargetFolder).and_then(|()| fs::create_dir(backupdir)) {
            Ok(()) => {
                let private = fs::set_permissions(backupdir, Permissions::from_mode(0o700));
                private.map_err(|source| Error::Target { path: backupdir.to_owned(), source })?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(Error::Target { path: backupdir.to_owned(), source }),
        }
        Store::open(backupdir)
    }

    /// The domains that have a folder here, sorted; there may be no restore point in it.
    pub fn domains(&self) -> Result<Vec<String>, Error> {
        let mut domains = BTreeSet::new();
        // A target that was unmounted meanwhile must not look like an empty one.
        let gone = || Error::Target { path: self.backupdir.clone(), source: io::ErrorKind::NotFound.into() };
        for entry in list(&self.backupdir)?.ok_or_else(gone)? {
            let folder = entry.path();
            // A link to a folder is the operator's way to put a domain elsewhere.
            if let Some(component) = entry.file_name().to_str()
                && folder.is_dir()
                && let Some(domain) = domain_of(component, &folder)
            {
                domains.insert(domain);
            }
        }
        Ok(domains.into_iter().collect())
    }

    /// The restore points of a domain, oldest first. One reading of its folder; none is opened, but those of the seed script
    /// for their first few kilobytes.
    pub fn points(&self, domain: &str) -> Result<Vec<Point>, Error> {
        let mut points = Vec::new();
        let mut seeds = Vec::new();
        for (path, known, status) in self.files(domain)? {
            let bytes = status.len();
            let domain = domain.to_owned();
            match known {
                Known::Archive(id) => points.push(Point { domain, id, path, bytes, origin: Origin::Kvmbackup }),
                Known::Seed(rotation) => {
                    let id = seed_id(&path, &domain, &status);
                    seeds.push(Point { domain, id, path, bytes, origin: Origin::Seed { rotation } });
                }
                Known::Partial(_) => {}
            }
        }
        // Ids are unique in a domain: of seeds with the same second, the older ones are set back.
        seeds.sort_by_key(|point| (std::cmp::Reverse(point.id), rotation(point)));
        for mut seed in seeds {
            while points.iter().any(|point| point.id == seed.id) {
                seed.id = PointId::at(seed.id.time() - TimeDelta::seconds(1));
            }
            points.push(seed);
        }
        points.sort_by_key(|point| point.id);
        Ok(points)
    }

    /// [`Store::create_noted`] without a note.
    pub fn create(&self, domain: &str, at: DateTime<Utc>, codec: Codec) -> Result<Partial, Error> {
        self.create_noted(domain, at, codec, |_| Ok(()))
    }

    /// Begins the archive of a domain's restore point, taken at `at` or, where that second is taken, one of the next.
    /// `note` hears the temporary path before there is a file; its error ends it.
    pub fn create_noted<E: From<Error>>(
        &self,
        domain: &str,
        at: DateTime<Utc>,
        codec: Codec,
        mut note: impl FnMut(&Path) -> Result<(), E>,
    ) -> Result<Partial, E> {
        let folder = self.make_folder(domain)?;
        let component = name::encode(domain);
        let taken: BTreeSet<PointId> = self
            .files(domain)?
            .into_iter()
            .filter_map(|(_, known, _)| match known {
                Known::Archive(id) | Known::Partial(id) => Some(id),
                Known::Seed(_) => None,
            })
            .collect();
        for ahead in 0..MAX_AHEAD {
            let id = PointId::at(at + TimeDelta::seconds(ahead));
            if taken.contains(&id) {
                continue;
            }
            let path = folder.join(name::partial(&component, id));
            note(&path)?;
            let file = match step::reached(Step::PartialCreate).and_then(|()| durable::create_private(&path)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result.map_err(|source| Error::File { action: "create", path: path.clone(), source })?,
            };
            let target = folder.join(name::archive(&component, id, codec));
            return Ok(Partial { file, domain: domain.to_owned(), id, path, target, published: false });
        }
        Err(Error::NoFreeId { domain: domain.to_owned(), path: folder }.into())
    }

    /// Removes a restore point for good. One of the seed script is refused; one that is gone is no error.
    pub fn remove(&self, point: &Point) -> Result<(), Error> {
        if point.origin != Origin::Kvmbackup {
            return Err(Error::NotOurs { path: point.path.clone() });
        }
        remove(&point.path)
    }

    /// What unfinished runs have left of a domain.
    pub fn partials(&self, domain: &str) -> Result<Vec<PathBuf>, Error> {
        let files = self.files(domain)?.into_iter();
        let mut partials: Vec<_> =
            files.filter_map(|(path, known, _)| matches!(known, Known::Partial(_)).then_some(path)).collect();
        partials.sort();
        Ok(partials)
    }

    /// Removes what unfinished runs have left of all domains, and returns the paths. No run may be under way.
    pub fn remove_partials(&self) -> Result<Vec<PathBuf>, Error> {
        let mut removed = Vec::new();
        for domain in self.domains()? {
            for path in self.partials(&domain)? {
                remove(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// The folder that a domain's new archives go to.
    fn folder(&self, domain: &str) -> PathBuf {
        self.backupdir.join(name::encode(domain))
    }

    fn make_folder(&self, domain: &str) -> Result<PathBuf, Error> {
        let folder = self.folder(domain);
        let error = |source| Error::File { action: "create", path: folder.clone(), source };
        match step::reached(Step::DomainFolder).and_then(|()| fs::create_dir(&folder)) {
            Ok(()) => {
                fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(error)?;
                durable::sync_dir(&self.backupdir).map_err(error)?;
            }
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(error(source)),
            Err(_) => {}
        }
        let name_file = folder.join(name::NAME_FILE);
        if name::is_shortened(&name::encode(domain)) && !name_file.exists() {
            let written =
                step::reached(Step::DomainFolder).and_then(|()| durable::write(&name_file, domain.as_bytes()));
            written.map_err(error)?;
        }
        Ok(folder)
    }

    /// The files of a domain that this program knows: regular ones only, no links. The seed script did not encode names: its
    /// folder may be another one.
    fn files(&self, domain: &str) -> Result<Vec<(PathBuf, Known, Metadata)>, Error> {
        let ours = self.folder(domain);
        let seeds = Some(domain).filter(|domain| !matches!(*domain, "" | "." | "..") && !domain.contains(['/', '\0']));
        let seeds = seeds.map(|domain| self.backupdir.join(domain)).filter(|folder| *folder != ours);
        let mut files = Vec::new();
        for (folder, is_ours) in [(Some(ours), true), (seeds, false)] {
            for entry in folder.map_or(Ok(None), |folder| list(&folder))?.unwrap_or_default() {
                let known = entry.file_name().to_str().and_then(|file| name::parse(domain, file));
                if let Some(known) = known
                    && (is_ours || matches!(known, Known::Seed(_)))
                    && let Ok(status) = entry.metadata()
                    && status.is_file()
                {
                    files.push((entry.path(), known, status));
                }
            }
        }
        Ok(files)
    }
}

/// The entries of a folder; `None` if it is not there.
fn list(folder: &Path) -> Result<Option<Vec<DirEntry>>, Error> {
    let result = match fs::read_dir(folder) {
        // Too long a name cannot be there either.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
            return Ok(None);
        }
        result => result.and_then(Iterator::collect),
    };
    result.map(Some).map_err(|source| Error::File { action: "list", path: folder.to_owned(), source })
}

/// The domain that a folder is of.
fn domain_of(component: &str, folder: &Path) -> Option<String> {
    if name::is_shortened(component) {
        let domain = fs::read_to_string(folder.join(name::NAME_FILE)).ok();
        let domain = domain.filter(|domain| name::encode(domain) == component);
        if domain.is_none() {
            tracing::warn!(folder = %folder.display(), "the file .domain does not tell the domain's name");
        }
        return domain;
    }
    // The seed script's folders are named as the domain is; anything else is foreign.
    name::decode(component)
        .or_else(|| folder.join(format!("{component}.tar.gz")).is_file().then(|| component.to_owned()))
}

/// When an archive of the seed script was made: its time of change, unless the day inside it speaks against that.
fn seed_id(path: &Path, domain: &str, status: &Metadata) -> PointId {
    let changed = status.modified().map_or(DateTime::UNIX_EPOCH, DateTime::<Utc>::from);
    // O_NOFOLLOW: what was a regular file when it was listed may be a link now.
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let day = file.ok().and_then(|file: File| Seed::new(file, path, domain).date().ok());
    let midnight = day.and_then(|day| Some(day.and_hms_opt(0, 0, 0)?.and_utc()));
    PointId::at(match midnight {
        // The day is the host's, up to 14 hours off, and the backup may have gone on past midnight.
        Some(day) if !(day - Days::new(1)..day + Days::new(3)).contains(&changed) => day,
        _ => changed,
    })
}

fn rotation(point: &Point) -> u32 {
    match point.origin {
        Origin::Seed { rotation } => rotation,
        Origin::Kvmbackup => 0,
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| folder.as_os_str() != OsStr::new("")).unwrap_or(Path::new("."));
    let removed = step::reached(Step::PointRemove).and_then(|()| durable::remove(path));
    let removed = removed.and_then(|()| durable::sync_dir(folder));
    removed.map_err(|source| Error::File { action: "remove", path: path.to_owned(), source })
}
