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
use std::time::Duration;

use super::Id;
use super::crypto::random;
use super::object::{Kind, Object};
use super::place::Place;
use crate::sys::durable;
use crate::sys::opened::Opened;
use crate::sys::patience::Patience;

/// Follows the name of an object in that of its temporary file.
const TEMPORARY: &str = "-tmp-";

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

    /// Removes temporary files that were last written this long ago: their writers no longer exist. Returns their number.
    ///
    /// # Errors
    /// If a directory cannot be listed, or a file cannot be removed.
    pub fn remove_leftovers(&self, age: Duration) -> io::Result<usize> {
        self.call(move |root| {
            let mut count = 0;
            for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Config) {
                let folder = root.join(kind.folder());
                let folders = match kind {
                    Kind::Pack => (0..=255_u8).map(|shard| folder.join(format!("{shard:02x}"))).collect(),
                    _ => vec![folder],
                };
                count += folders.iter().map(|folder| remove_old(folder, age)).sum::<io::Result<usize>>()?;
            }
            Ok(count)
        })
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

/// Removes the temporary files of a directory that were last written this long ago.
fn remove_old(folder: &Path, age: Duration) -> io::Result<usize> {
    let folder = match Opened::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        opened => opened?,
    };
    let is_ours = |name: &OsStr| {
        let parts = name.to_str().and_then(|name| name.split_once(TEMPORARY));
        parts.is_some_and(|(id, tail)| id.parse::<Id>().is_ok() && tail.len() == 16)
    };
    let mut count = 0;
    for entry in folder.entries()?.into_iter().filter(|entry| is_ours(&entry.file_name())) {
        let written = entry.metadata().and_then(|status| status.modified());
        if written.is_ok_and(|written| written.elapsed().is_ok_and(|elapsed| elapsed >= age)) {
            durable::remove(&folder.at(Path::new(&entry.file_name())))?;
            count += 1;
        }
    }
    Ok(count)
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
    let aside = folder.path().join(format!("{}{TEMPORARY}{:016x}", name.display(), u64::from_ne_bytes(tail)));
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
    fn only_old_temporary_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Local::at(dir.path(), &Patience::default());
        let [a, b] = [b"a", b"b"].map(|name| Id::of(name).to_string());
        let shard = dir.path().join("data/00");
        fs::create_dir_all(&shard).unwrap();
        fs::create_dir(dir.path().join("index")).unwrap();
        let stay = [&a, "README", &format!("{b}-tmp-1"), "x-tmp-0123456789abcdef"].map(|name| shard.join(name));
        let go = [
            shard.join(format!("{a}-tmp-0123456789abcdef")),
            dir.path().join(format!("index/{b}-tmp-{}", "0".repeat(16))),
        ];
        stay.iter().chain(&go).for_each(|path| fs::write(path, "").unwrap());
        assert_eq!(place.remove_leftovers(Duration::from_secs(3600)).unwrap(), 0);
        assert_eq!(place.remove_leftovers(Duration::ZERO).unwrap(), 2);
        assert!(stay.iter().all(|path| path.exists()) && !go.iter().any(|path| path.exists()));
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
