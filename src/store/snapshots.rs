//! Opens a repository, and lists, begins and removes its restore points. Must not read or write their contents.
//!
//! A restore point is a snapshot with the tag of this program. Its host name is the domain, so one repository can serve
//! many hosts, and `restic snapshots` shows a domain per line.

mod manifest;
mod reader;
mod remains;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use uuid::Uuid;

pub(super) use reader::{Disk, SavedSnapshot};
pub use remains::{FileRemains, SnapshotRemains};
pub(super) use writer::{SnapshotPoint, disk_member};

use super::point::Kind;
use super::{Domains, Error, Intent, Inventory, Point, name};
use crate::model::{BucketUrl, DomainRef, PointId};
use crate::repository::{
    self, About, Catalog, Id, KnownSnapshots, Local, Object, Packs, Place, Repository, S3, S3Keys, SharedLock,
    Snapshot, SnapshotList, SnapshotWriter, Timing, WriteOptions,
};
use crate::sys::opened;
use crate::sys::patience::Patience;
use crate::sys::secret::Secret;
use crate::sys::signals::Cancel;
use crate::sys::trust::{self, Refused};

/// How long a backup waits for a process that works on the repository alone, such as `restic prune`.
const WRITER_WAIT: Duration = Duration::from_secs(60 * 60);

/// The same for readers and removals of restore points.
const READER_WAIT: Duration = Duration::from_secs(60);

/// Age of the temporary files that are removed. An object is written in minutes, even on a slow target.
const LEFTOVER_AGE: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// Tag of a protected snapshot.
const PROTECTED: &str = "protected";

/// Start of the tag with the UUID of the guest.
const GUEST: &str = "uuid:";

/// How a repository is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Set if it is in a bucket.
    pub bucket: Option<BucketAccess>,
    /// Where its password is stored.
    pub password: Secret,
    /// Directory of the cache.
    pub cache_dir: PathBuf,
    /// Size of the blobs of new disks, in bytes; `None` chooses it by the size of the disk.
    pub blob_size: Option<u64>,
}

impl Access {
    /// The password.
    ///
    /// # Errors
    /// If it cannot be read, or if another user could change its file.
    pub fn password(&self) -> Result<String, Error> {
        expect_trusted("password file", self.password.path())?;
        Ok(self.password.read()?)
    }

    /// The file with the certificates of a private authority, if one is configured.
    pub fn ca_file(&self) -> Option<&Path> {
        self.bucket.as_ref()?.ca_file.as_deref()
    }

    /// What restic needs in its environment to open the repository.
    ///
    /// # Errors
    /// If a secret cannot be read, or if another user could change its file.
    pub fn variables(&self) -> Result<Vec<(&'static str, String)>, Error> {
        let mut variables = vec![("RESTIC_PASSWORD", self.password()?)];
        if let Some(bucket) = &self.bucket {
            let S3Keys { id, secret, token } = bucket.keys()?;
            variables.push(("AWS_ACCESS_KEY_ID", id));
            variables.push(("AWS_SECRET_ACCESS_KEY", secret.to_string()));
            variables.extend(token.map(|token| ("AWS_SESSION_TOKEN", token.to_string())));
            variables.push(("AWS_DEFAULT_REGION", bucket.region.clone()));
        }
        Ok(variables)
    }
}

/// The largest file with certificates, in bytes.
const CERTIFICATES: u64 = 4 << 20;

/// How a bucket is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketAccess {
    /// The bucket.
    pub url: BucketUrl,
    /// Its region.
    pub region: String,
    /// Name of the access key, and where its secret is stored; `None` if the environment contains them.
    pub key: Option<(String, Secret)>,
    /// Absolute path of a file with certificates in PEM format that are trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
}

impl BucketAccess {
    /// The access key.
    ///
    /// # Errors
    /// If it cannot be read, or if another user could change the file with its secret.
    fn keys(&self) -> Result<S3Keys, Error> {
        Ok(match &self.key {
            Some((id, secret)) => {
                expect_trusted("file with the secret access key", secret.path())?;
                let secret =
                    secret.read().map_err(|error| Error::SecretKey { place: error.place, source: error.source })?;
                S3Keys { id: id.clone(), secret: secret.into(), token: None }
            }
            None => {
                let needed = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
                let variable = |name| needed(name).ok_or(Error::NoKey { place: self.url.to_string(), name });
                S3Keys {
                    id: variable("AWS_ACCESS_KEY_ID")?,
                    secret: variable("AWS_SECRET_ACCESS_KEY")?.into(),
                    token: needed("AWS_SESSION_TOKEN").map(Into::into),
                }
            }
        })
    }

    fn place(&self, patience: &Patience) -> Result<S3, Error> {
        let keys = self.keys()?;
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Certificates { path, source }
        };
        let authorities = match &self.ca_file {
            Some(path) => {
                expect_trusted("file with certificates", Some(path.clone()))?;
                Some(opened::read_followed(path, CERTIFICATES).map_err(unusable(path))?)
            }
            None => None,
        };
        let path = self.ca_file.as_deref().unwrap_or(Path::new("/etc/ssl/certs"));
        S3::at(&self.url, &self.region, &keys, authorities.as_deref(), patience).map_err(unusable(path))
    }
}

fn expect_trusted(what: &'static str, path: Option<PathBuf>) -> Result<(), Error> {
    match path.map(|path| trust::input(&path)) {
        Some(Err(source @ Refused::Untrusted { .. })) => Err(Error::Untrusted { what, source }),
        _ => Ok(()),
    }
}

/// The restore points of a repository in a directory or a bucket. Opened when first needed: a password costs a fraction of a second.
#[derive(Debug)]
pub(super) struct Snapshots {
    root: PathBuf,
    access: Access,
    patience: Patience,
    opened: OnceLock<Repository>,
    catalog: OnceLock<Arc<Catalog>>,
    known: OnceLock<Arc<KnownSnapshots>>,
}

impl Snapshots {
    pub(super) fn new(root: &Path, access: Access, patience: &Patience) -> Snapshots {
        let (opened, catalog, known) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Snapshots { root: root.to_owned(), access, patience: patience.clone(), opened, catalog, known }
    }

    /// The opened repository.
    pub(super) fn repository(&self) -> Result<&Repository, Error> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let opened = Repository::open(self.place()?, &self.access.password()?)?;
        Ok(self.opened.get_or_init(|| opened))
    }

    /// Creates the repository.
    pub(super) fn init(&self) -> Result<String, Error> {
        let created = Repository::init(self.place()?, &self.access.password()?)?;
        Ok(created.id().to_string())
    }

    /// Whether it is in a bucket, so that its root is no directory.
    pub(super) fn is_remote(&self) -> bool {
        self.access.bucket.is_some()
    }

    fn place(&self) -> Result<Arc<dyn Place>, Error> {
        Ok(match &self.access.bucket {
            Some(bucket) => Arc::new(bucket.place(&self.patience)?),
            None => Arc::new(Local::at(&self.root, &self.patience)),
        })
    }

    /// Whether the repository exists, without its password.
    pub(super) fn reach(&self) -> Result<(), Error> {
        let place = self.place()?;
        let location = place.location();
        place.size(Object::CONFIG).map(drop).map_err(|source| {
            Error::from(match source.kind() {
                io::ErrorKind::NotFound => repository::Error::None { place: location },
                _ => {
                    let what = Object::CONFIG.to_string();
                    repository::Error::Access { place: location, action: "examine", what, source }
                }
            })
        })
    }

    /// Opens the repository, and creates and removes a lock. Creates none if another process works on the repository alone.
    pub(super) fn try_out(&self) -> Result<(), Error> {
        match SharedLock::take(self.repository()?, Timing::waiting(Duration::ZERO), &Cancel::default()) {
            Ok(lock) => Ok(lock.release()?),
            Err(repository::Error::Locked { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes temporary files that crashed processes left in the directory of the repository; returns their number.
    pub(super) fn remove_leftovers(&self) -> Result<usize, Error> {
        if self.is_remote() {
            return Ok(0);
        }
        let removed = Local::at(&self.root, &self.patience).remove_leftovers(LEFTOVER_AGE);
        removed.map_err(|source| Error::File { action: "remove temporary files of", path: self.root.clone(), source })
    }

    /// What is known of all snapshots, brought up to date.
    fn list(&self) -> Result<MutexGuard<'_, SnapshotList>, Error> {
        let repository = self.repository()?;
        Ok(self.known(repository).update(repository)?)
    }

    /// The domains with a restore point. Snapshots that cannot be read are failures, because they may be of any domain.
    pub(super) fn domains(&self) -> Result<Domains, Error> {
        let mut known = self.list()?;
        let names: BTreeSet<String> = known.ours().map(|(_, snapshot)| snapshot.hostname.clone()).collect();
        let failures = std::mem::take(&mut known.failures).into_iter().map(Error::from).collect();
        Ok(Domains { names: names.into_iter().collect(), failures })
    }

    /// The restore points of a domain, oldest first.
    pub(super) fn points(&self, domain: &str) -> Result<Vec<Point>, Error> {
        let mut all = self.points_by_domain(|name| name == domain)?;
        Ok(all.remove(domain).unwrap_or_default())
    }

    /// The restore points of these domains, each oldest first.
    pub(super) fn points_by_domain(
        &self,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Vec<Point>>, Error> {
        let known = self.list()?;
        let mut found = BTreeMap::<String, Vec<Point>>::new();
        for (id, snapshot) in known.ours().filter(|(_, snapshot)| is_wanted(&snapshot.hostname)) {
            found.entry(snapshot.hostname.clone()).or_default().push(point(&self.root, *id, snapshot));
        }
        for points in found.values_mut() {
            // Both snapshots exist if a change of protection was interrupted. Until it is repeated, the point is protected.
            // Two hosts may each have a guest of this name, and back them up in the same second.
            points.sort_by_key(|point| (point.id, point.guest, !point.protected));
            points.dedup_by_key(|point| (point.id, point.guest));
        }
        Ok(found)
    }

    /// Counts and measures what is stored.
    pub(super) fn stats(&self, cancel: &Cancel) -> Result<Inventory, Error> {
        let repository = self.repository()?;
        let blobs = repository::count_blobs(repository, &self.access.cache_dir, READER_WAIT, cancel)?;
        let packs = Packs::of(repository)?;
        let known = self.list()?;
        let domains: BTreeSet<&str> = known.ours().map(|(_, snapshot)| snapshot.hostname.as_str()).collect();
        let (domains, restore_points) = (domains.len() as u64, known.ours().count() as u64);
        Ok(Inventory { restore_points, domains, packs: packs.count, blobs, stored_bytes: packs.stored_bytes })
    }

    /// Begins a restore point.
    pub(super) fn begin(&self, domain: &DomainRef, intent: &Intent) -> Result<SnapshotPoint, Error> {
        let repository = self.repository()?;
        match repository::remove_left_by_us(repository) {
            Ok(0) => {}
            Ok(count) => tracing::warn!("removed {count} locks of interrupted runs from the repository"),
            Err(error) => tracing::warn!("cannot remove locks of interrupted runs: {error}"),
        }
        let taken: BTreeSet<PointId> = self.points(&domain.name)?.into_iter().map(|point| point.id).collect();
        let id = intent.id.beside(&taken);
        let about = About {
            domain: domain.name.clone(),
            folder: name::encode(&domain.name),
            tags: vec![format!("{GUEST}{}", domain.uuid)],
            time: id.time(),
            program: format!("kvmbackup {}", env!("CARGO_PKG_VERSION")),
        };
        let options = WriteOptions {
            cache: self.access.cache_dir.clone(),
            known: self.known(repository).clone(),
            threads: intent.threads,
            blob_size: self.access.blob_size,
            timing: Timing::waiting(WRITER_WAIT),
            cancel: intent.cancel.clone(),
        };
        let writer = SnapshotWriter::begin(repository, about, &options)?;
        Ok(SnapshotPoint::new(writer, &self.root, id))
    }

    /// Opens a restore point for reading.
    pub(super) fn open(&self, id: Id, path: &Path, cancel: &Cancel) -> Result<SavedSnapshot, Error> {
        let repository = self.repository()?;
        let known = self.known(repository);
        let snapshot = repository.cached_snapshot(id, &known.cache)?.ok_or_else(|| reader::missing(path))?;
        let known = (self.catalog(repository)?, known.clone());
        Ok(SavedSnapshot::new((repository, known), &self.access.cache_dir, (id, snapshot), path, cancel))
    }

    /// Reads everything of a damaged restore point that is left.
    pub(super) fn remains(
        &self,
        point: (Id, &Path),
        cancel: &Cancel,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SnapshotRemains, Error> {
        SnapshotRemains::find((self.repository()?, &self.access.cache_dir), point, cancel, progress)
    }

    fn known(&self, repository: &Repository) -> &Arc<KnownSnapshots> {
        self.known.get_or_init(|| Arc::new(KnownSnapshots::open(repository, &self.access.cache_dir)))
    }

    /// The blobs of the repository when this process first needed them.
    fn catalog(&self, repository: &Repository) -> Result<Arc<Catalog>, Error> {
        if let Some(catalog) = self.catalog.get() {
            return Ok(catalog.clone());
        }
        let catalog = Arc::new(Catalog::open(repository, &self.access.cache_dir)?);
        Ok(self.catalog.get_or_init(|| catalog).clone())
    }

    /// Adds or removes the tag that protects a snapshot. As with `restic tag`, this makes a new snapshot of the same data;
    /// the old one is removed only afterwards.
    pub(super) fn protect(&self, id: Id, protected: bool) -> Result<(), Error> {
        let repository = self.repository()?;
        let lock = SharedLock::take(repository, Timing::waiting(READER_WAIT), &Cancel::default())?;
        if let Some(mut snapshot) = repository.snapshot(id)? {
            snapshot.tags.retain(|tag| tag != PROTECTED);
            snapshot.tags.extend(protected.then(|| PROTECTED.to_owned()));
            repository.save(repository::Kind::Snapshot, &snapshot)?;
            repository.forget(id)?;
        }
        Ok(lock.release()?)
    }

    /// Removes a restore point; a missing one is not an error. Its data stays until the repository is pruned.
    pub(super) fn remove(&self, id: Id) -> Result<(), Error> {
        let repository = self.repository()?;
        let lock = SharedLock::take(repository, Timing::waiting(READER_WAIT), &Cancel::default())?;
        repository.forget(id)?;
        Ok(lock.release()?)
    }
}

/// The restore point that is this snapshot of the repository in `root`.
fn point(root: &Path, id: Id, snapshot: &Snapshot) -> Point {
    Point {
        domain: snapshot.hostname.clone(),
        id: PointId::at(snapshot.time),
        guest: guest(&snapshot.tags),
        protected: is_protected(&snapshot.tags),
        bytes: snapshot.summary.map_or(0, |summary| summary.data_added_packed),
        path: root.join("snapshots").join(id.to_string()),
        kind: Kind::Snapshot { id },
    }
}

/// The guest of a snapshot with these tags.
pub fn guest(tags: &[String]) -> Option<Uuid> {
    tags.iter().find_map(|tag| tag.strip_prefix(GUEST)?.parse().ok())
}

/// Whether a snapshot with these tags is protected.
pub fn is_protected(tags: &[String]) -> bool {
    tags.iter().any(|tag| tag == PROTECTED)
}
