//! Stores a repository in a directory of this host. Must not know the contents of objects, or follow links of other
//! users.
//!
//! An object is written to a temporary file, synced and renamed; then its directory is synced. Directories are created
//! when they are needed, because `restic init` creates only some of them. [`Patience`] limits every call.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Id;
use super::crypto::random;
use super::object::{Kind, Object};
use super::place::Place;
use crate::sys::durable;
use crate::sys::opened::Opened;
use crate::sys::patience::Patience;

/// A repository in a directory.
#[derive(Debug, Clone)]
pub struct Local {
    root: PathBuf,
    patience: Patience,
}

impl Local {
    /// The place at this directory, which may not exist.
    pub fn at(root: &Path, patience: &Patience) -> Local {
        Local { root: root.to_owned(), patience: patience.clone() }
    }

    fn call<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let root = self.root.clone();
        self.patience.call(move || work(&root)).and_then(|done| done)
    }
}

impl Place for Local {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn put(&self, object: Object, bytes: Vec<u8>) -> io::Result<()> {
        self.call(move |root| put(&root.join(object.folder()), OsStr::new(&object.file_name()), &bytes))
    }

    fn read(&self, object: Object, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.call(move |root| {
            let file = open(root, object)?;
            // A range outside the file must not allocate memory.
            let length = range
                .end
                .checked_sub(range.start)
                .filter(|_| file.metadata().is_ok_and(|found| range.end <= found.len()));
            let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        })
    }

    fn size(&self, object: Object) -> io::Result<u64> {
        self.call(move |root| Ok(open(root, object)?.metadata()?.len()))
    }

    fn list(&self, kind: Kind) -> io::Result<Vec<(Id, u64)>> {
        self.call(move |root| match kind {
            Kind::Pack => {
                let shards = (0..=255_u8).map(|shard| list(&root.join(kind.folder()).join(format!("{shard:02x}"))));
                shards.collect::<io::Result<Vec<_>>>().map(|packs| packs.concat())
            }
            kind => list(&root.join(kind.folder())),
        })
    }

    fn remove(&self, object: Object) -> io::Result<()> {
        self.call(move |root| {
            let folder = match Opened::open(&root.join(object.folder())) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                opened => opened?,
            };
            durable::remove(&folder.at(Path::new(&object.file_name())))?;
            folder.sync()
        })
    }
}

fn open(root: &Path, object: Object) -> io::Result<File> {
    Opened::open(&root.join(object.folder()))?.file(OsStr::new(&object.file_name()))
}

fn put(folder: &Path, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    let folder = match Opened::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            durable::create_private_dir(folder)?;
            Opened::open(folder)?
        }
        opened => opened?,
    };
    let mut tail = [0; 8];
    random(&mut tail)?;
    let aside = folder.path().join(format!("{}-tmp-{:016x}", name.display(), u64::from_ne_bytes(tail)));
    let mut file = durable::create_private(&aside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    // The object is not read again soon, so leave the page cache to the guests.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    let renamed = written.and_then(|()| fs::rename(&aside, folder.path().join(name)));
    renamed.inspect_err(|_| drop(fs::remove_file(&aside)))?;
    folder.sync()
}

/// The objects in a directory; none if it does not exist.
fn list(folder: &Path) -> io::Result<Vec<(Id, u64)>> {
    let folder = match Opened::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut found = Vec::new();
    for entry in folder.entries()? {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match entry.metadata() {
            Ok(status) if status.is_file() => found.push((id, status.len())),
            Ok(_) => {}
            // A lock can be removed at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::time::Duration;

    use super::super::place::contract;
    use super::*;

    #[test]
    fn directory_passes_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        contract::all(&Local::at(&dir.path().join("repository"), &Patience::default()));
    }

    #[test]
    fn files_are_private_and_no_temporary_file_remains() {
        let dir = tempfile::tempdir().unwrap();
        let place = Local::at(&dir.path().join("repository"), &Patience::default());
        let pack = Object::new(Kind::Pack, Id::of(b"pack"));
        place.put(pack, b"pack".to_vec()).unwrap();
        let folder = dir.path().join("repository").join(pack.folder());
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [OsStr::new(&pack.file_name())]);
        for path in [&folder, &folder.join(pack.file_name())] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o77, 0);
        }
        // A directory has this name, so the rename fails.
        let blocked = Object::new(Kind::Pack, Id::of(b"blocked"));
        let path = dir.path().join("repository").join(blocked.folder()).join(blocked.file_name());
        fs::create_dir_all(&path).unwrap();
        place.put(blocked, b"blocked".to_vec()).unwrap_err();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn only_regular_files_named_by_an_id_are_objects() {
        let dir = tempfile::tempdir().unwrap();
        let place = Local::at(dir.path(), &Patience::default());
        let at = |name: &str| dir.path().join("locks").join(name);
        let [link, folder] = [b"link", b"dir "].map(|name| Id::of(name));
        fs::create_dir(dir.path().join("locks")).unwrap();
        symlink("/dev/zero", at(&link.to_string())).unwrap();
        fs::create_dir(at(&folder.to_string())).unwrap();
        fs::write(at(&format!("{link}-tmp-1")), "").unwrap();
        assert_eq!(place.list(Kind::Lock).unwrap(), []);
        assert_eq!(place.read_all(Object::new(Kind::Lock, link), 10).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn hung_directory_is_an_error() {
        let patience = Patience::new(Duration::from_millis(1));
        let (release, held) = std::sync::mpsc::channel::<()>();
        patience.call(move || held.recv()).unwrap_err();
        let error = Local::at(Path::new("/"), &patience).list(Kind::Lock).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(release);
    }
}
