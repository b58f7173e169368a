//! Entry point for repositories. An attacker with the password can write any contents, so the bytes are those after
//! decryption. Must not use the program's encryption.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvmbackup::model::Extent;
use kvmbackup::repository::{
    About, Catalog, Disk, Error, Id, Kind, KnownSnapshots, Object, Place, Repository, Snapshot, SnapshotReader,
    SnapshotWriter, Timing, WriteOptions, remove_stale,
};
use kvmbackup::sys::signals::Cancel;

use super::folder;
use super::forge::{self, Forge};

/// The disk of the forged restore point: two blobs, and zeros.
const DISK: &str = "disks/vda.raw";
const UNIT: usize = 64 << 10;
const SIZE: usize = 2 * UNIT + (512 << 10);

/// Bytes of a file that are read at most.
const READ: u64 = 8 << 20;

/// Reads a repository in which one object has these contents, and backs up into it. The first byte selects the object. In
/// JSON, `$ROOT`, `$TREE`, `$DISKS`, `$DATA`, `$ZERO` and `$PACK` are the IDs of the other objects.
pub fn repository(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let mut forge = Forge::new();
    let data = forge.blob("data", &[7; UNIT]);
    let zeros = vec![0; 512 << 10];
    let (zero, packed) = (forge::id(&zeros), zstd::bulk::compress(&zeros, 3).unwrap());
    forge.stored("data", &zero, &packed, Some(zeros.len() as u32));
    let given = |known: &[(&str, &str)]| match std::str::from_utf8(rest) {
        Ok(text) => known.iter().fold(text.to_owned(), |text, (name, id)| text.replace(name, id)).into_bytes(),
        Err(_) => rest.to_vec(),
    };
    let file = forge::file_node("vda.raw", SIZE as u64, &[&data, &data, &zero]);
    let blobs = [("$DATA", data.as_str()), ("$ZERO", zero.as_str())];
    let disks = match kind % 9 {
        // A directory, plain or compressed, or a data blob with a false length.
        5 => forge.blob("tree", &given(&blobs)),
        6 => {
            let id = forge::id(b"any");
            forge.stored("tree", &id, rest, Some(1));
            id
        }
        7 => {
            let (length, packed) = rest.split_at(rest.len().min(4));
            let raw = length.try_into().map_or(0, u32::from_le_bytes);
            let id =
                zstd::bulk::decompress(packed, 1 << 20).map_or_else(|_| forge::id(b"any"), |bytes| forge::id(&bytes));
            forge.stored("data", &id, packed, Some(raw));
            let file = forge::file_node("vda.raw", raw.into(), &[&id]);
            forge.blob("tree", forge::tree(&[file]).as_bytes())
        }
        _ => forge.blob("tree", forge::tree(&[file]).as_bytes()),
    };
    let below = forge::tree(&[forge::dir_node("disks", &disks)]);
    let below = if kind % 9 == 8 { given(&[("$DISKS", &disks)]) } else { below.into_bytes() };
    let tree = forge.blob("tree", &below);
    let root = forge.blob("tree", forge::tree(&[forge::dir_node("web", &tree)]).as_bytes());
    let (pack, index) = forge.pack();
    let ids = [("$ROOT", root.as_str()), ("$TREE", &tree), ("$DISKS", &disks), ("$PACK", &pack), blobs[0], blobs[1]];
    match kind % 9 {
        0 => forge.config(rest),
        1 => drop(forge.file("keys", rest.to_vec())),
        2 => drop(forge.object("locks", rest)),
        _ => {}
    }
    let chosen = |wanted: u8, usual: String| if kind % 9 == wanted { given(&ids) } else { usual.into_bytes() };
    forge.object("snapshots", &chosen(3, forge::snapshot(&root)));
    forge.object("index", &chosen(4, index));
    read(Memory { files: Mutex::new(forge.files) });
}

fn read(place: Memory) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cache = folder().join("repository");
    let _ = std::fs::remove_dir_all(&cache);
    let Ok(repository) = Repository::open(Arc::new(place), forge::PASSWORD) else { return };
    let _ = remove_stale(&repository);
    let known = Arc::new(KnownSnapshots::open(&repository, &cache));
    let Ok(found) = known.update(&repository).map(|list| list.found.clone()) else { return };
    for (id, snapshot) in &found {
        let _ = open(&repository, &cache, (*id, snapshot)).map(|reader| read_all(&reader));
    }
    drop(back_up(&repository, &cache, known));
}

fn open(repository: &Repository, cache: &Path, point: (Id, &Snapshot)) -> Result<SnapshotReader, Error> {
    let catalog = Arc::new(Catalog::open(repository, cache)?);
    SnapshotReader::open(repository, &catalog, point, &Cancel::default())
}

/// Checks that no name leads out of a directory, and that only announced data is delivered, in order.
fn read_all(reader: &SnapshotReader) {
    let names: Vec<String> = reader.names().map(|(name, _)| name.to_owned()).collect();
    for name in &names {
        let is_inside = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        assert!(name.split('/').all(is_inside), "{name:?} is accepted");
        let Ok(disk) = reader.disk(name) else { continue };
        assert!(disk.extents().windows(2).all(|pair| pair[0].end() <= pair[1].offset));
        assert!(disk.extents().iter().all(|extent| extent.end() <= disk.size()));
        let mut delivered = 0;
        let _ = disk.read::<Error>(&mut |offset, bytes| {
            assert!(offset >= delivered && offset + bytes.len() as u64 <= disk.size());
            delivered = offset + bytes.len() as u64;
            if delivered > READ { Err(Error::Stopped { signal: 15 }) } else { Ok(()) }
        });
        for offset in [0, disk.size() / 2, disk.size(), u64::MAX] {
            let _ = disk.read_at(offset, &mut [0; 512]);
        }
        let _ = reader.read(name);
    }
    reader.verify(&mut |_| ());
}

/// The bytes of the disk, if all of it can be read and it has the usual size.
fn bytes(reader: &SnapshotReader) -> Option<Vec<u8>> {
    let disk = reader.disk(DISK).ok().filter(|disk| disk.size() == SIZE as u64)?;
    let mut bytes = vec![0; SIZE];
    disk.read_at(0, &mut bytes).ok().map(|()| bytes)
}

/// Backs up the disk after a change of its first bytes. If its old contents can be read, the new point contains them with the
/// change.
fn back_up(repository: &Repository, cache: &Path, known: Arc<KnownSnapshots>) -> Result<(), Error> {
    let options = WriteOptions {
        cache: cache.to_owned(),
        known,
        threads: 1,
        blob_size: None,
        timing: Timing { second_look: Duration::ZERO, ..Timing::waiting(Duration::ZERO) },
        cancel: Cancel::default(),
    };
    let about = About {
        domain: "web".to_owned(),
        folder: "web".to_owned(),
        tags: vec!["uuid:5a58ba3c-5c3c-4f3c-8a3c-000000000000".to_owned()],
        time: "2026-12-01T02:00:00Z".parse().unwrap(),
        program: "fuzz".to_owned(),
    };
    let mut writer = SnapshotWriter::begin(repository, about, &options)?;
    let parent = writer.parent();
    let old = match parent.map(|parent| repository.snapshot(parent).map(|found| (parent, found))).transpose()? {
        Some((id, Some(snapshot))) => bytes(&open(repository, cache, (id, &snapshot))?),
        _ => None,
    };
    let whole = vec![Extent { offset: 0, length: SIZE as u64 }];
    let disk = Disk { size: SIZE as u64, extents: whole, changed: Some(vec![Extent { offset: 0, length: 10 }]) };
    let mut new = old.clone().unwrap_or_else(|| vec![5; SIZE]);
    new[..10].fill(5);
    writer.disk::<Error>(DISK, &disk, &mut |extents, sink| {
        extents.iter().try_for_each(|extent| sink(extent.offset, &new[extent.offset as usize..extent.end() as usize]))
    })?;
    let (id, snapshot) = writer.commit(None)?;
    let reader = open(repository, cache, (id, &snapshot))?;
    if old.is_some() && reader.verify(&mut |_| ()).is_empty() {
        assert!(bytes(&reader) == Some(new), "the new point does not contain the disk");
    }
    Ok(())
}

/// A place in memory.
#[derive(Debug)]
struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Memory {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path(object: Object) -> String {
    format!("{}/{}", object.folder(), object.file_name()).trim_start_matches('/').to_owned()
}

impl Place for Memory {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn put(&self, object: Object, bytes: Vec<u8>) -> io::Result<()> {
        self.files().insert(path(object), bytes);
        Ok(())
    }

    fn read(&self, object: Object, range: Range<u64>) -> io::Result<Vec<u8>> {
        let files = self.files();
        let bytes = files.get(&path(object)).ok_or(io::ErrorKind::NotFound)?;
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        Ok(bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec())
    }

    fn size(&self, object: Object) -> io::Result<u64> {
        Ok(self.files().get(&path(object)).ok_or(io::ErrorKind::NotFound)?.len() as u64)
    }

    fn list(&self, kind: Kind) -> io::Result<Vec<(Id, u64)>> {
        let found = |(path, bytes): (&String, &Vec<u8>)| {
            let (folder, name) = path.rsplit_once('/')?;
            let is_here = folder.split('/').next() == Some(kind.folder());
            is_here.then(|| name.parse().ok()).flatten().map(|id| (id, bytes.len() as u64))
        };
        Ok(self.files().iter().filter_map(found).collect())
    }

    fn remove(&self, object: Object) -> io::Result<()> {
        self.files().remove(&path(object));
        Ok(())
    }
}
