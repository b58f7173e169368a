//! Finds the blobs of a repository with a cache on disk, which is built from the index objects. Must not require the
//! cache: a missing cache is rebuilt.
//!
//! `CACHE/REPOSITORY/blobs` is one [`BlobTable`]. It lists the index objects that it was built from. New index objects
//! are merged into it. If one of them no longer exists, the table is rebuilt. Only this process knows the blobs that it
//! adds.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::pack::Entry;
use super::table::BlobTable;
use super::table_writer::{TableWriter, nameless};
use super::{BlobKind, Error, Id, Kind, Repository, index};
use crate::sys::{durable, lock};

/// Maximum number of added blobs in memory; more are moved to a table.
const RECENT: usize = 128 << 10;

/// The blobs of a repository.
#[derive(Debug)]
pub struct Catalog {
    dir: PathBuf,
    stored: BlobTable,
    added: RwLock<Added>,
    /// [`RECENT`], except in tests.
    limit: usize,
}

/// Blobs that this process stored since the catalog was opened.
#[derive(Debug, Default)]
struct Added {
    recent: HashSet<(BlobKind, Id)>,
    /// Each is less than half as large as the one before it.
    tables: Vec<BlobTable>,
}

impl Catalog {
    /// Updates and opens the cache. The caller must have locked the repository.
    pub fn open(repository: &Repository, cache: &Path) -> Result<Catalog, Error> {
        let dir = cache.join(repository.id().to_string());
        let path = dir.join("blobs");
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Cache { action, path, source }
        };
        durable::create_private_dir(&dir).map_err(failed("create", &dir))?;
        let _alone = lock::wait(&dir.join("lock")).map_err(failed("lock", &dir))?;
        let current: Vec<Id> = repository.list(Kind::Index)?.into_iter().map(|(id, _)| id).collect();
        let old = open(&path).map_err(failed("read", &path))?;
        let is_current = |id: &Id| current.binary_search(id).is_ok();
        let old = old.filter(|old| old.indexes().iter().all(is_current));
        let stored = match old {
            Some(old) if old.indexes().len() == current.len() => old,
            old => {
                let mut writer = TableWriter::new(&dir);
                let known = old.as_ref().map_or(&[][..], BlobTable::indexes);
                for id in current.iter().filter(|id| known.binary_search(id).is_err()) {
                    index::read(repository, *id, &mut |pack, entry| {
                        writer.add(pack, &entry).map_err(failed("write", &path))
                    })?;
                }
                let tables: Vec<&BlobTable> = old.iter().collect();
                replace(&path, |file| writer.finish(file, &tables, &current)).map_err(failed("write", &path))?
            }
        };
        Ok(Catalog { dir, stored, added: RwLock::default(), limit: RECENT })
    }

    /// Pack and position of a blob that was stored when the catalog was opened.
    pub fn find(&self, kind: BlobKind, id: &Id) -> Result<Option<(Id, Entry)>, Error> {
        self.stored.find(kind, id).map_err(|source| self.failed("read", source))
    }

    /// Number of blobs that were stored when the catalog was opened.
    pub fn stored_blobs(&self) -> u64 {
        self.stored.len()
    }

    /// Whether a blob is stored, or was added since the catalog was opened.
    pub fn contains(&self, kind: BlobKind, id: &Id) -> Result<bool, Error> {
        let added = self.added.read().unwrap_or_else(PoisonError::into_inner);
        if added.recent.contains(&(kind, *id)) {
            return Ok(true);
        }
        for table in added.tables.iter().chain([&self.stored]) {
            if table.find(kind, id).map_err(|source| self.failed("read", source))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Records a blob that is being stored; returns `false` if it was known.
    pub fn add(&self, kind: BlobKind, id: Id) -> Result<bool, Error> {
        if self.contains(kind, &id)? {
            return Ok(false);
        }
        let mut added = self.added.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = added.recent.insert((kind, id));
        if added.recent.len() >= self.limit {
            added.put_away(&self.dir).map_err(|source| self.failed("write", source))?;
        }
        Ok(is_new)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::Cache { action, path: self.dir.clone(), source }
    }
}

impl Added {
    /// Moves the blobs in memory to a table, and merges it with tables that are not much larger.
    fn put_away(&mut self, dir: &Path) -> io::Result<()> {
        let mut writer = TableWriter::new(dir);
        let mut size = self.recent.len() as u64;
        for (kind, id) in self.recent.drain() {
            writer.add(Id::from_zeros(), &Entry { kind, id, offset: 0, length: 0, raw: None })?;
        }
        let mut first = self.tables.len();
        while let Some(table) =
            first.checked_sub(1).map(|before| &self.tables[before]).filter(|table| table.len() < 2 * size)
        {
            size += table.len();
            first -= 1;
        }
        let merged: Vec<BlobTable> = self.tables.drain(first..).collect();
        let file = writer.finish(nameless(dir)?, &merged.iter().collect::<Vec<_>>(), &[])?;
        self.tables.push(BlobTable::open(file)?);
        Ok(())
    }
}

/// The table of the cache; `None` if it does not exist or is damaged.
fn open(path: &Path) -> io::Result<Option<BlobTable>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    match BlobTable::open(file) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            tracing::warn!(path = %path.display(), %error, "rebuilding the damaged cache");
            Ok(None)
        }
        table => table.map(Some),
    }
}

/// Writes a temporary file, renames it, and opens it as a table.
fn replace(path: &Path, write: impl FnOnce(File) -> io::Result<File>) -> io::Result<BlobTable> {
    let aside = path.with_extension("new");
    durable::remove(&aside)?;
    let file = write(durable::create_private(&aside)?)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    BlobTable::open(file)
}

#[cfg(test)]
mod tests {
    use super::super::Object;
    use super::super::fixture::Restic;
    use super::*;

    fn entry(n: u32) -> Entry {
        Entry { kind: BlobKind::Data, id: Id::of(&n.to_le_bytes()), offset: n, length: 100, raw: None }
    }

    fn save(repository: &Repository, pack: &str, blobs: std::ops::Range<u32>) -> Id {
        let before = repository.list(Kind::Index).unwrap();
        let mut index = index::Index::default();
        index.add(Id::of(pack.as_bytes()), &blobs.map(entry).collect::<Vec<_>>());
        index.save(repository).unwrap();
        let after = repository.list(Kind::Index).unwrap();
        after.into_iter().find(|index| !before.contains(index)).unwrap().0
    }

    #[test]
    fn cache_follows_the_index_objects() {
        let restic = Restic::new();
        let repository = Repository::init(restic.place(), Restic::PASSWORD).unwrap();
        let cache = restic.path("cache");
        let open = || Catalog::open(&repository, &cache).unwrap();
        let has = |catalog: &Catalog, n: u32| catalog.find(BlobKind::Data, &entry(n).id).unwrap();
        assert_eq!(has(&open(), 1), None);
        let first = save(&repository, "a", 0..10);
        assert_eq!(has(&open(), 1), Some((Id::of(b"a"), entry(1))));
        save(&repository, "b", 10..20);
        let catalog = open();
        assert!((0..20).all(|n| has(&catalog, n).is_some()) && has(&catalog, 20).is_none());
        assert_eq!(has(&catalog, 12), Some((Id::of(b"b"), entry(12))));
        // Without new index objects, the cache is not written.
        let file = cache.join(repository.id().to_string()).join("blobs");
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        open();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
        repository.remove(Object::new(Kind::Index, first)).unwrap();
        assert!(has(&open(), 1).is_none() && has(&open(), 11).is_some());

        // A damaged or lost cache is rebuilt.
        for bad in [&b""[..], b"x", &[0; 1000]] {
            fs::write(&file, bad).unwrap();
            assert!(has(&open(), 11).is_some());
        }
        fs::remove_dir_all(&cache).unwrap();
        assert!(has(&open(), 11).is_some());
    }

    #[test]
    fn added_blobs_are_known_regardless_of_their_number() {
        let restic = Restic::new();
        let repository = Repository::init(restic.place(), Restic::PASSWORD).unwrap();
        let mut catalog = Catalog::open(&repository, &restic.path("cache")).unwrap();
        catalog.limit = 1000;
        let count = 1000 * 4 + 7;
        (0..count).for_each(|n| assert!(catalog.add(BlobKind::Data, entry(n).id).unwrap()));
        assert!((0..count).step_by(97).all(|n| !catalog.add(BlobKind::Data, entry(n).id).unwrap()));
        assert!(catalog.add(BlobKind::Tree, entry(1).id).unwrap());
        assert!(!catalog.contains(BlobKind::Data, &entry(count).id).unwrap());
        assert!(catalog.find(BlobKind::Data, &entry(1).id).unwrap().is_none(), "the blob is not in an index yet");
        let added = catalog.added.read().unwrap();
        assert!(added.tables.len() < 4 && added.recent.len() == 8, "{} {}", added.tables.len(), added.recent.len());
    }
}
