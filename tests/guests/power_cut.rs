//! Cuts the power at every moment of a backup, including rotation, with archives and state on a disk that keeps only
//! synced data for certain. Whatever it keeps: every listed restore point is complete, there are never fewer than
//! retention promises, state files are old or new, the journal knows every unfinished archive, and the next start
//! recovers everything.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::faulty::cut::{Image, every_cut, synced};
use crate::faulty::{Faulty, can_mount};
use crate::host::{Host, run};
use crate::lab::Unpacked;
use serde_json::Value;

/// Restore points that retention keeps.
const KEPT: usize = 2;
/// Cuts after which the program is started again, for each run that was cut.
const STARTS: usize = 6;

/// Archives that were already checked: most images contain the same ones.
#[derive(Default)]
struct Archives(HashMap<*const Vec<u8>, Arc<Vec<u8>>>);

impl Archives {
    /// Panics unless an archive is complete, checked with standard tools alone, and contains the data of the guest's
    /// disk.
    fn assert_whole(&mut self, bytes: &Arc<Vec<u8>>, guest: &Path, what: &str) {
        if self.0.contains_key(&Arc::as_ptr(bytes)) {
            return;
        }
        assert!(!bytes.is_empty(), "{what}: an empty archive");
        let file = tempfile::Builder::new().suffix(".tar.zst").tempfile().unwrap();
        std::fs::write(file.path(), bytes.as_slice()).unwrap();
        let unpacked = Unpacked::from(file.path());
        run("qemu-img", &["compare", "-q", unpacked.disk("vda").to_str().unwrap(), guest.to_str().unwrap()]);
        self.0.insert(Arc::as_ptr(bytes), bytes.clone());
    }
}

#[test]
fn power_cut_at_any_moment_of_a_backup_loses_nothing_that_was_promised() {
    if !can_mount() {
        return;
    }
    let host = Host::new(&["a"]);
    let disk = Faulty::mount(&host.path("d"));
    let folders = format!("backupdir: {0}/backups\nstate_dir: {0}/state", disk.path().display());
    host.configure(&folders, "{a: {day_of_week: daily, rotate: 2}}");
    let mut archives = Archives::default();
    let mut images = 0;
    // The first backup creates every directory, the second adds a point, the third and the fourth remove one.
    for number in 0..4 {
        let start = disk.tree();
        disk.record();
        host.run("backup --force").ends(0);
        let (log, end) = (disk.recorded(), disk.tree());
        let mut seen = BTreeSet::new();
        let mut left = Vec::new();
        let before = points(&Image::from_iter(start.paths().into_keys().map(|path| (path, None)))).count();
        every_cut(&start, &log, |made, image| {
            images += 1;
            let what =
                format!("run {number}, after {made} of {} changes, the last {:?}", log.len(), log[..made].last());
            let whole =
                points(image).inspect(|(_, bytes)| archives.assert_whole(bytes, &host.image("a"), &what)).count();
            assert!(whole >= before.min(KEPT), "{what}: {whole} points are left of {before}");
            assert_state_files_are_whole(image, &what);
            assert_the_journal_knows_what_is_unfinished(image, disk.path(), &what);
            if made == log.len() {
                assert_eq!(whole, (before + 1).min(KEPT), "{what}: reported points exist");
            }
            // Each kind of leftover once, because a start takes a second.
            let names: Vec<PathBuf> = image.keys().map(|path| unnumbered(path)).collect();
            if seen.insert(names) {
                left.push(image.clone());
            }
        });
        for image in left.iter().step_by(left.len().div_ceil(STARTS)) {
            disk.load(image);
            host.run("recover").ends(0);
            if image.contains_key(Path::new("backups")) {
                let listed = host.run("list --json").ends(0).json();
                assert_eq!(listed["points"].as_array().unwrap().len(), points(image).count(), "{listed:#}");
            }
            host.run("backup --force").ends(0);
            let files = disk.tree();
            let files = files.paths();
            assert!(!files.keys().any(|path| path.extension().is_some_and(|end| end == "part")), "{files:?}");
        }
        disk.load(&synced(&end));
    }
    assert!(images > 1000, "only {images} images: the disk did not record the changes");
}

/// The restore points of the guest by name, as in a listing.
fn points(image: &Image) -> impl Iterator<Item = (&PathBuf, &Arc<Vec<u8>>)> {
    static NOTHING: std::sync::OnceLock<Arc<Vec<u8>>> = std::sync::OnceLock::new();
    let is_point = |path: &Path| path.to_str().is_some_and(|path| path.starts_with("backups/a/a-"));
    let nothing = NOTHING.get_or_init(Arc::default);
    image
        .iter()
        .filter(move |(path, _)| is_point(path))
        .map(move |(path, bytes)| (path, bytes.as_ref().unwrap_or(nothing)))
}

fn assert_state_files_are_whole(image: &Image, what: &str) {
    for (path, bytes) in image {
        let Some(bytes) = bytes else { continue };
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".json") && !name.starts_with('.') {
            let read = serde_json::from_slice::<Value>(bytes);
            assert!(read.is_ok_and(|value| value.is_object()), "{what}: {} is torn", path.display());
        }
    }
}

fn assert_the_journal_knows_what_is_unfinished(image: &Image, root: &Path, what: &str) {
    let entries: Vec<Value> = image
        .iter()
        .filter(|(path, _)| path.starts_with("state/journal") && path.extension().is_some_and(|end| end == "json"))
        .map(|(_, bytes)| serde_json::from_slice(bytes.as_ref().unwrap()).unwrap())
        .collect();
    let knows = |key: &str, path: &Path| entries.iter().any(|entry| entry[key] == *root.join(path).to_str().unwrap());
    for path in image.keys() {
        if path.extension().is_some_and(|end| end == "part") {
            assert!(knows("partial", path), "{what}: no entry names {}", path.display());
        }
        if path.parent() == Some(Path::new("state/sockets")) {
            assert!(knows("sockets", path), "{what}: no entry names {}", path.display());
        }
    }
}

/// A path without the parts that differ in every run.
fn unnumbered(path: &Path) -> PathBuf {
    path.to_str().unwrap().replace(|c: char| c.is_ascii_digit(), "").into()
}
