//! Storage that refuses writes in the middle of a backup into a repository: it is full, a file would be too large, or calls fail.

use std::collections::BTreeMap;
use std::path::Path;

use fuser::Errno;

use super::{configure_at, expect_point, fill_with_noise, host, points, restic, restic_at};
use crate::faulty::cut::synced;
use crate::faulty::tree::{Ino, Op, Tree};
use crate::faulty::{Call, Fault, Faulty, can_mount};
use crate::host::{Host, NAME};

/// The kinds of the objects that a run wrote, in order, with the number of bytes that were written to the disk before half of
/// the object was written.
fn middles(start: &Tree, log: &[Op]) -> Vec<(String, u64)> {
    let mut written: BTreeMap<Ino, (u64, u64)> = BTreeMap::new();
    let (mut tree, mut total, mut found) = (start.clone(), 0, Vec::new());
    for op in log {
        tree.apply(op);
        match op {
            Op::Write { ino, bytes, .. } => {
                let length = bytes.len() as u64;
                written.entry(*ino).or_insert((total, 0)).1 += length;
                total += length;
            }
            Op::Rename { ino, to, .. } => {
                let folder = tree.paths().into_keys().find(|path| path.ends_with(&to.1)).unwrap();
                let kind = folder.iter().nth(1).unwrap().to_str().unwrap().to_owned();
                let (before, length) = written[ino];
                found.push((kind, before + length / 2));
            }
            _ => {}
        }
    }
    found
}

fn names(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn storage_that_refuses_any_write_leaves_a_sound_repository() {
    if !can_mount() {
        return;
    }
    let host = Host::new(&["a"]);
    let disk = Faulty::mount(&host.path("d"));
    let repository = disk.path().join("repository");
    configure_at(&host, &repository, "", "{a: {day_of_week: daily, rotate: 9}}");
    fill_with_noise(&host, "a", 1, 2);
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    let first = points(&host, "a").remove(0);
    let copy = host.path("copy");
    std::fs::copy(host.image("a"), &copy).unwrap();
    fill_with_noise(&host, "a", 2, 2);
    let start = disk.tree();
    disk.record();
    host.run("backup --force").ends(0);
    let middles = middles(&start, &disk.recorded());
    let kinds: Vec<&str> = middles.iter().map(|(kind, _)| kind.as_str()).collect();
    assert!(kinds.starts_with(&["locks", "data"]) && kinds.ends_with(&["index", "snapshots"]), "{kinds:?}");
    disk.load(&synced(&start));

    let full = Fault::Error(Errno::ENOSPC);
    let writes = middles.iter().map(|(_, after)| (Call::Write, *after, full));
    let others = [(Call::Create, 1, full), (Call::Fsync, 1, Fault::Error(Errno::EIO)), (Call::Rename, 0, full)];
    for (call, after, fault) in writes.chain(others) {
        disk.set(call, after, fault);
        let failed = host.run("backup --force");
        assert!(disk.was_met() && failed.code != 0, "{call:?} after {after}: {failed:?}");
        let said = failed.out + &failed.err;
        assert!(matches!(fault, Fault::Error(Errno::EIO)) || said.contains("Free space on the target"), "{said}");
        disk.heal();
        let stored = ["snapshots", "locks"].map(|kind| names(&repository.join(kind)));
        assert_eq!(stored, [1, 0], "{call:?} after {after}: {said}");
    }
    restic_at(&host, &repository, &["check", "--read-data"]);
    host.run("backup --force").ends(0);
    let points = points(&host, "a");
    expect_point(&host, "a", &first, &copy);
    expect_point(&host, "a", &points[1], &host.image("a"));
    restic_at(&host, &repository, &["check", "--read-data"]);
}

#[test]
fn file_size_limit_is_an_error_and_leaves_a_sound_repository() {
    let host = host(&["a"], "{\"*\": {day_of_week: daily}}");
    fill_with_noise(&host, "a", 1, 2);
    host.run("repository init").ends(0);
    let mut command = host.command("prlimit");
    command.args(["--fsize=1000000", env!("CARGO_BIN_EXE_kvmbackup"), "backup", "--host", NAME, "--config"]);
    let failed = host.finish(command.arg(host.path("config.yml")));
    assert!(failed.code < 128, "it was ended by a signal: {failed:?}");
    let said = format!("{}{}", failed.out, failed.err);
    assert!(failed.code != 0 && said.contains("File too large"), "{said}");
    assert_eq!(names(&host.path("repository/snapshots")) + names(&host.path("repository/locks")), 0);
    restic(&host, &["check", "--read-data"]);
    host.run("backup").ends(0);
    expect_point(&host, "a", &points(&host, "a")[0], &host.image("a"));
    restic(&host, &["check", "--read-data"]);
}
