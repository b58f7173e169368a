//! Writes a restore point: files, directories, and the order in which it becomes visible. Must not know how a disk is
//! kept consistent.
//!
//! Packs are durable before an index lists them. After the index is stored, the parent is checked again, and only then is
//! the snapshot stored. The lock is checked before and after each of them is stored. A crash leaves packs or an index
//! that no snapshot needs; the next prune removes them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};

use super::blobs::Blobs;
use super::catalog::Catalog;
use super::fetch::Fetcher;
use super::lock::{SharedLock, Timing};
use super::snapshot::{KnownSnapshots, Snapshot, Summary};
use super::tree::{Node, Tree, is_component};
use super::walk::{Files, walk};
use super::{Error, Id, Kind, Object, Repository, snapshot};
use crate::sys::signals::Cancel;

/// Blob size in bytes for files other than disks.
const FILE_BLOB: usize = 1 << 20;

/// Description of a restore point.
#[derive(Debug, Clone)]
pub struct About {
    /// Name of the domain.
    pub domain: String,
    /// Its directory in the restore point: a single path component.
    pub folder: String,
    /// Tags in addition to `kvmbackup`; the same for all restore points of the domain.
    pub tags: Vec<String>,
    /// Time of the restore point.
    pub time: DateTime<Utc>,
    /// Program and version.
    pub program: String,
}

/// Options for writing a restore point.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Directory of the cache.
    pub cache: PathBuf,
    /// What is known of the snapshots.
    pub known: Arc<KnownSnapshots>,
    /// Maximum number of compression threads.
    pub threads: usize,
    /// Size of the blobs of disks that the parent does not have, in bytes: a power of two from 64 KiB to 8 MiB. `None`
    /// chooses it by the size of the disk.
    pub blob_size: Option<u64>,
    /// Times of the lock protocol.
    pub timing: Timing,
    /// Cancels waiting for another process.
    pub cancel: Cancel,
}

/// The restore point that this one builds on.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) id: Id,
    pub(super) files: Files,
    facts: Option<serde_json::Value>,
}

/// A restore point that is being written. It does not exist before [`SnapshotWriter::commit`].
pub struct SnapshotWriter {
    about: About,
    began: DateTime<Utc>,
    pub(super) repository: Repository,
    pub(super) fetcher: Fetcher,
    pub(super) blobs: Blobs,
    pub(super) parent: Option<Parent>,
    /// See [`WriteOptions::blob_size`].
    pub(super) blob_size: Option<u64>,
    root: Dir,
    summary: Summary,
    // Dropped last, because blobs are still being written until then.
    lock: SharedLock,
}

type Dir = BTreeMap<String, Item>;

enum Item {
    File(Box<Node>),
    Dir(Dir),
}

impl SnapshotWriter {
    /// Locks the repository, updates the cache and finds the parent.
    pub fn begin(repository: &Repository, about: About, options: &WriteOptions) -> Result<SnapshotWriter, Error> {
        if !is_component(&about.folder) {
            return Err(repository.invalid(format!("{:?} is not a valid directory name", about.folder)));
        }
        let began = Utc::now();
        let lock = SharedLock::take(repository, options.timing, &options.cancel)?;
        let catalog = Arc::new(Catalog::open(repository, &options.cache)?);
        let fetcher = Fetcher::new(repository, &catalog);
        let parent = find_parent(&fetcher, &about, &options.known)?;
        let blobs = Blobs::new(lock.locked(), &catalog, options.threads)?;
        let (repository, root, summary) = (repository.clone(), Dir::new(), Summary::default());
        let blob_size = options.blob_size;
        Ok(SnapshotWriter { about, began, repository, fetcher, blobs, parent, blob_size, root, summary, lock })
    }

    /// The snapshot that this one builds on.
    pub fn parent(&self) -> Option<Id> {
        self.parent.as_ref().map(|parent| parent.id)
    }

    /// The facts of that snapshot: see [`Snapshot::facts`].
    pub fn parent_facts(&self) -> Option<&serde_json::Value> {
        self.parent.as_ref().and_then(|parent| parent.facts.as_ref())
    }

    /// Counts of the blobs stored so far.
    #[cfg(test)]
    pub fn stats(&self) -> super::blobs::Stats {
        self.blobs.stats()
    }

    /// Adds a small file.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let ids = bytes.chunks(FILE_BLOB).map(|blob| self.blobs.store_now(blob)).collect::<Result<Vec<Id>, Error>>()?;
        self.insert(name, bytes.len() as u64, ids)
    }

    /// Adds a file of exactly `length` bytes. `read` fills buffers until it returns 0.
    ///
    /// # Errors
    /// Those of `read`; [`Error::Invalid`] for another length.
    pub fn file<E: From<Error>>(
        &mut self,
        name: &str,
        length: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let (mut ids, mut total) = (Vec::new(), 0);
        let mut buffer = vec![0; FILE_BLOB];
        loop {
            let mut filled = 0;
            while filled < FILE_BLOB {
                match read(&mut buffer[filled..])? {
                    0 => break,
                    count => filled += count.min(FILE_BLOB - filled),
                }
            }
            total += filled as u64;
            if filled == 0 || total > length {
                break;
            }
            ids.push(self.blobs.store_now(&buffer[..filled])?);
        }
        if total != length {
            return Err(self.repository.invalid(format!("{name}: read {total} bytes instead of {length}")).into());
        }
        Ok(self.insert(name, length, ids)?)
    }

    /// Adds a file to its directory; its blobs must be stored.
    pub(super) fn insert(&mut self, name: &str, size: u64, content: Vec<Id>) -> Result<(), Error> {
        let wrong = || self.repository.invalid(format!("{name:?} is not a valid file name here, or is a duplicate"));
        if !name.split('/').all(is_component) {
            return Err(wrong());
        }
        let before = self.parent.as_ref().and_then(|parent| parent.files.files.get(name));
        let is_same = before.is_some_and(|before| before.size == size && before.content.as_ref() == Some(&content));
        let time = match before {
            Some(before) if is_same => before.mtime.clone(),
            _ => self.time(),
        };
        let count = match before {
            Some(_) if is_same => &mut self.summary.files_unmodified,
            Some(_) => &mut self.summary.files_changed,
            None => &mut self.summary.files_new,
        };
        *count += 1;
        self.summary.total_files_processed += 1;
        self.summary.total_bytes_processed += size;
        let (folders, file) = name.rsplit_once('/').map_or((None, name), |(folders, file)| (Some(folders), file));
        let mut dir = &mut self.root;
        for folder in folders.into_iter().flat_map(|folders| folders.split('/')) {
            let item = dir.entry(folder.to_owned()).or_insert_with(|| Item::Dir(Dir::new()));
            let Item::Dir(next) = item else { return Err(wrong()) };
            dir = next;
        }
        if dir.contains_key(file) {
            return Err(wrong());
        }
        dir.insert(file.to_owned(), Item::File(Box::new(Node::file(file, &time, size, content))));
        Ok(())
    }

    /// Makes the restore point durable and visible. `facts` may be lost later: see [`Snapshot::facts`].
    pub fn commit(mut self, facts: Option<serde_json::Value>) -> Result<(Id, Snapshot), Error> {
        let mut root = Dir::new();
        root.insert(self.about.folder.clone(), Item::Dir(std::mem::take(&mut self.root)));
        let nodes = self.nodes(root, None)?;
        let tree = self.blobs.store_tree(&Tree { nodes })?;
        self.blobs.finish()?;
        let stats = self.blobs.stats();
        let snapshot = Snapshot {
            time: self.about.time,
            parent: self.parent(),
            tree,
            paths: vec![format!("/{}", self.about.folder)],
            hostname: self.about.domain.clone(),
            username: "root".to_owned(),
            tags: [&[snapshot::TAG.to_owned()], self.about.tags.as_slice()].concat(),
            program_version: Some(self.about.program.clone()),
            summary: Some(Summary {
                backup_start: self.began,
                backup_end: Utc::now(),
                data_blobs: stats.data_blobs,
                tree_blobs: stats.tree_blobs,
                data_added: stats.raw_bytes,
                data_added_packed: stats.stored_bytes,
                ..self.summary
            }),
            facts,
        };
        snapshot.check(&self.repository)?;
        self.expect_parent()?;
        let id = self.lock.locked().save(Kind::Snapshot, &snapshot)?;
        // The restore point exists. If its lock remains, the next run removes it.
        drop(self);
        Ok((id, snapshot))
    }

    /// Ends without a restore point.
    ///
    /// # Errors
    /// If the lock may still be stored.
    pub fn discard(self) -> Result<(), Error> {
        self.lock.release()
    }

    /// Fails if the parent snapshot was removed, because blobs that only it needs may be pruned.
    fn expect_parent(&self) -> Result<(), Error> {
        let Some(parent) = self.parent() else { return Ok(()) };
        match self.repository.size(Object::new(Kind::Snapshot, parent)) {
            Err(Error::Access { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::ParentGone { place: self.repository.location(), parent })
            }
            result => result.map(drop),
        }
    }

    /// Stores the subdirectories of a directory from the bottom up; returns its entries. `path` is `None` for the root,
    /// which is not a directory of the domain.
    fn nodes(&mut self, dir: Dir, path: Option<&str>) -> Result<Vec<Node>, Error> {
        let mut nodes = Vec::with_capacity(dir.len());
        for (name, item) in dir {
            let dir = match item {
                Item::File(node) => {
                    nodes.push(*node);
                    continue;
                }
                Item::Dir(dir) => dir,
            };
            let below = match path {
                None => String::new(),
                Some("") => name.clone(),
                Some(path) => format!("{path}/{name}"),
            };
            let entries = self.nodes(dir, Some(&below))?;
            let subtree = self.blobs.store_tree(&Tree { nodes: entries })?;
            let before = self.parent.as_ref().and_then(|parent| parent.files.dirs.get(&below));
            let time = match before.filter(|before| before.subtree == Some(subtree)) {
                Some(before) => before.mtime.clone(),
                None => self.time(),
            };
            nodes.push(Node::dir(&name, &time, subtree));
        }
        Ok(nodes)
    }

    fn time(&self) -> String {
        self.about.time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }
}

/// The newest restore point of the same domain whose directories can be read.
fn find_parent(fetcher: &Fetcher, about: &About, known: &KnownSnapshots) -> Result<Option<Parent>, Error> {
    let is_own = |(_, snapshot): &&(Id, Snapshot)| snapshot.is_of(&about.domain, &about.tags);
    let own: Vec<_> = known.update(fetcher.repository())?.found.iter().rev().filter(is_own).cloned().collect();
    for (id, snapshot) in own {
        match walk(fetcher, id, &snapshot) {
            Ok(files) => return Ok(Some(Parent { id, files, facts: snapshot.facts })),
            Err(error) if error.is_stall() => return Err(error),
            Err(error) => tracing::warn!(snapshot = %id, %error, "cannot build on this restore point"),
        }
    }
    Ok(None)
}
