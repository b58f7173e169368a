//! Finds what is left of a damaged restore point of a repository. Must not change the repository, except for its lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{READER_WAIT, manifest, reader};
use crate::archive::{self, Manifest};
use crate::model::Extent;
use crate::repository::{self, Catalog, Id, Repository, SharedLock, Timing};
use crate::store::{Error, Sink};
use crate::sys::signals::Cancel;

/// What is left of a damaged restore point of a repository.
pub struct SnapshotRemains {
    found: repository::DamagedSnapshot,
    manifest: Option<Manifest>,
    path: PathBuf,
    /// Released last.
    _lock: Option<SharedLock>,
}

/// What is left of a file of such a point.
pub struct FileRemains(repository::DamagedFile);

impl SnapshotRemains {
    /// Reads everything. `progress` receives the number of stored bytes that were read since its last call.
    pub(super) fn find(
        (repository, cache_dir): (&Repository, &Path),
        (id, path): (Id, &Path),
        cancel: &Cancel,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SnapshotRemains, Error> {
        let lock = match SharedLock::take(repository, Timing::waiting(READER_WAIT), cancel) {
            Ok(lock) => Some(lock),
            Err(error) if error.is_read_only() => None,
            Err(error) => return Err(error.into()),
        };
        let snapshot = repository.snapshot(id)?.ok_or_else(|| reader::missing(path))?;
        let catalog = Arc::new(Catalog::open(repository, cache_dir)?);
        let found = repository::DamagedSnapshot::find(repository, &catalog, (id, &snapshot), cancel, progress)?;
        let mut remains = SnapshotRemains { found, manifest: None, path: path.to_owned(), _lock: lock };
        let json = remains.small(archive::MANIFEST)?;
        let joined = json.and_then(|json| manifest::join(&json, snapshot.facts.as_ref(), snapshot.time).ok());
        remains.manifest = joined;
        Ok(remains)
    }

    /// All damage.
    pub fn damages(&self) -> impl ExactSizeIterator<Item = &dyn std::error::Error> {
        self.found.damages.iter().map(|error| error as &dyn std::error::Error)
    }

    /// The manifest, if it is whole.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The names of the files, in order. No component of a name leaves its directory.
    pub fn names(&self) -> Vec<String> {
        self.found.names().map(str::to_owned).collect()
    }

    /// The members that should be there, but are not.
    pub fn missing(&self) -> Vec<String> {
        let names: Vec<&str> = self.found.names().collect();
        let disks = self.manifest.iter().flat_map(|manifest| &manifest.disks).map(|disk| disk.member.as_str());
        let expected = [archive::MANIFEST].into_iter().chain(disks);
        expected.filter(|member| !names.contains(member)).map(str::to_owned).collect()
    }

    /// What is left of a file.
    pub fn file(&self, name: &str) -> Result<FileRemains, Error> {
        self.found.file(name)?.map(FileRemains).ok_or_else(|| reader::missing(&self.path.join(name)))
    }

    /// Passes what is left of a file to `sink`, in ascending order.
    pub fn read<E: From<Error>>(&self, file: &FileRemains, sink: &mut Sink<'_, E>) -> Result<(), E> {
        let mut sink = |offset, bytes: &[u8]| sink(offset, bytes).map_err(super::writer::Stop::Theirs);
        self.found.read(&file.0, &mut sink).map_err(super::writer::Stop::into_error)
    }

    /// A small file, if it is whole.
    fn small(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let file = self.found.file(name)?.filter(|file| file.lost.is_empty() && file.length <= archive::MAX_SMALL);
        let Some(file) = file else { return Ok(None) };
        let mut bytes = Vec::new();
        self.found.read::<repository::Error>(&file, &mut |_, part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(Some(bytes))
    }
}

impl FileRemains {
    /// Length in bytes, including lost ones.
    pub fn length(&self) -> u64 {
        self.0.length
    }

    /// Lost ranges: ascending, not adjacent.
    pub fn lost(&self) -> &[Extent] {
        &self.0.lost
    }
}
