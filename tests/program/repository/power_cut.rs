//! Cuts the power at every moment of a backup into a repository, and of its creation, on a disk that keeps only synced data for
//! certain. Whatever it keeps: an object has all of its bytes, an index names only packs that exist, and a restore point
//! needs only what exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{configure_at, expect_point, fill_with_noise, points, restic_at};
use crate::faulty::cut::{Image, every_cut, synced};
use crate::faulty::tree::Tree;
use crate::faulty::{Faulty, can_mount};
use crate::host::{Host, run};

/// Cuts after which restic reads the repository and the next backup is made, for each run that was cut.
const STARTS: usize = 2;

#[test]
fn power_cut_at_any_moment_of_a_backup_leaves_every_committed_point_readable() {
    if !can_mount() {
        return;
    }
    let host = Host::new(&["a"]);
    let disk = Faulty::mount(&host.path("d"));
    let repository = disk.path().join("repository");
    configure_at(&host, &repository, "", "{a: {day_of_week: daily, rotate: 9}}");
    fill_with_noise(&host, "a", 1, 1);
    assert_init_is_all_or_nothing(&host, &disk);
    let mut saved: Vec<(String, PathBuf)> = Vec::new();
    let mut images = 0;
    for number in 0..2 {
        run("qemu-io", &["-c", &format!("write -P {} 200k 300k", 7 + number), host.image("a").to_str().unwrap()]);
        let start = disk.tree();
        disk.record();
        host.run("backup --force").ends(0);
        let (log, end) = (disk.recorded(), disk.tree());
        let (before, made) = (objects(&start), objects(&end));
        let new = |kind: &str| -> Vec<&PathBuf> {
            made.difference(&before).filter(|path| path.starts_with(format!("repository/{kind}"))).collect()
        };
        let (packs, indexes, snapshots) = (new("data"), new("index"), new("snapshots"));
        assert!(packs.len() >= 2 && indexes.len() == 1 && snapshots.len() == 1);
        let (mut seen, mut left) = (BTreeSet::new(), Vec::new());
        every_cut(&start, &log, |changes, image| {
            images += 1;
            let what = format!("run {number}, after {changes} of {} changes", log.len());
            assert_objects_are_whole(image, &what);
            let exists = |path: &&PathBuf| image.contains_key(*path);
            assert!(before.iter().all(|path| image.contains_key(path)), "{what}: an object is lost");
            if exists(&indexes[0]) {
                assert!(packs.iter().all(exists), "{what}: the index names a pack that is lost");
            }
            if exists(&snapshots[0]) {
                assert!(exists(&indexes[0]), "{what}: a point exists without its index");
            }
            assert!(changes < log.len() || exists(&snapshots[0]), "{what}: the reported point is lost");
            // Each kind of leftover once.
            if seen.insert(image.keys().map(|path| unnumbered(path)).collect::<BTreeSet<_>>()) {
                left.push(image.clone());
            }
        });
        for image in left.iter().step_by(left.len().div_ceil(STARTS)) {
            disk.load(image);
            // Nobody uses the repository: the locks are those of the run that was cut.
            restic_at(&host, &repository, &["unlock", "--remove-all"]);
            restic_at(&host, &repository, &["check", "--read-data"]);
            let left = points(&host, "a");
            saved.iter().for_each(|(id, image)| {
                assert!(left.contains(id));
                expect_point(&host, "a", id, image);
            });
            host.run("backup --force").ends(0);
            expect_point(&host, "a", points(&host, "a").last().unwrap(), &host.image("a"));
        }
        disk.load(&synced(&end));
        let copy = host.path(&format!("copy-{number}"));
        std::fs::copy(host.image("a"), &copy).unwrap();
        saved.push((points(&host, "a").last().unwrap().clone(), copy));
    }
    assert!(images > 100, "only {images} images: the disk did not record the changes");
}

/// After a cut, the repository exists with its key, or it does not exist and can be created.
fn assert_init_is_all_or_nothing(host: &Host, disk: &Faulty) {
    let start = disk.tree();
    disk.record();
    host.run("repository init").ends(0);
    let (log, end) = (disk.recorded(), disk.tree());
    let key = objects(&end).into_iter().find(|path| path.starts_with("repository/keys")).unwrap();
    let mut unfinished = None;
    every_cut(&start, &log, |changes, image| {
        let what = format!("init, after {changes} of {} changes", log.len());
        assert_objects_are_whole(image, &what);
        match image.get(Path::new("repository/config")) {
            Some(config) => assert!(
                config.as_ref().is_some_and(|bytes| bytes.len() > 100) && image.contains_key(&key),
                "{what}: the repository has no config or no key"
            ),
            None => unfinished = Some(image.clone()),
        }
    });
    disk.load(&unfinished.unwrap());
    host.run("repository init").ends(0);
    let keys = objects(&disk.tree()).into_iter().filter(|path| path.starts_with("repository/keys"));
    assert_eq!(keys.count(), 1, "the password opens two keys, of which only one is that of the config");
    host.run("list").ends(0);
}

/// The paths of all objects except locks: they are named by an ID.
fn objects(tree: &Tree) -> BTreeSet<PathBuf> {
    let is_object = |path: &PathBuf| is_id(path) && !path.starts_with("repository/locks");
    tree.paths().into_keys().filter(is_object).collect()
}

fn is_id(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Asserts that every object has the bytes whose SHA-256 is its name.
fn assert_objects_are_whole(image: &Image, what: &str) {
    use sha2::Digest as _;
    for (path, bytes) in image.iter().filter(|(path, _)| is_id(path)) {
        let digest = sha2::Sha256::digest(bytes.as_ref().unwrap().as_slice());
        let id: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(path.ends_with(&id), "{what}: {} is torn", path.display());
    }
}

/// A path without the parts that differ in every run.
fn unnumbered(path: &Path) -> PathBuf {
    path.to_str().unwrap().replace(|c: char| c.is_ascii_hexdigit(), "").into()
}
