//! Tests staging on real file systems.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::rename::place_aside;
use super::*;

fn write(staging: &mut Staging, path: &Path) {
    staging.create(path, Rights::Private).unwrap().with(|mut file| file.write_all(b"new")).unwrap();
}

#[test]
fn dropping_restores_the_old_files() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    fs::write(&old, "old").unwrap();
    let mut staging = Staging::new(true, &Patience::default());
    staging.folder(&dir.path().join("a/b"), PRIVATE).unwrap();
    write(&mut staging, &dir.path().join("a/b/c"));
    write(&mut staging, &old);
    staging.place().unwrap();
    assert_eq!(fs::read_to_string(&old).unwrap(), "new");
    drop(staging);
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn keeping_leaves_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    fs::write(&old, "old").unwrap();
    let mut staging = Staging::new(true, &Patience::default());
    write(&mut staging, &old);
    staging.place().unwrap();
    assert_eq!(staging.keep(), std::slice::from_ref(&old));
    assert_eq!(fs::read_to_string(&old).unwrap(), "new");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::metadata(&old).unwrap().mode() & 0o777, 0o600);
}

/// Acts like a file system whose rename accepts no flags.
fn plain(overwrite: bool) -> Staging {
    let mut staging = Staging::new(overwrite, &Patience::default());
    staging.rename = |_, _, _| Err(Errno::INVAL);
    staging
}

#[test]
fn replaced_file_is_kept_until_the_end_without_an_atomic_exchange() {
    let dir = tempfile::tempdir().unwrap();
    let [old, fresh, late] = ["old", "fresh", "late"].map(|name| dir.path().join(name));
    fs::write(&old, "old").unwrap();
    let mut staging = plain(true);
    write(&mut staging, &old);
    write(&mut staging, &fresh);
    staging.place().unwrap();
    assert_eq!(fs::read_to_string(&old).unwrap(), "new");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "the old file was removed too early");
    drop(staging);
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    // A later file cannot be placed.
    let mut staging = plain(true);
    write(&mut staging, &old);
    write(&mut staging, &late);
    fs::create_dir(&late).unwrap();
    assert!(staging.place().is_err());
    drop(staging);
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    fs::remove_dir(&late).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let mut staging = plain(true);
    write(&mut staging, &old);
    staging.place().unwrap();
    staging.keep();
    assert_eq!(fs::read_to_string(&old).unwrap(), "new");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let mut staging = plain(false);
    write(&mut staging, &fresh);
    fs::write(&fresh, "theirs").unwrap();
    assert!(matches!(staging.place(), Err(Error::Exists { .. })));
}

#[test]
fn failed_rename_keeps_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    fs::write(&old, "old").unwrap();
    assert!(place_aside(&part_of(&old), &old).is_err());
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn file_that_appears_late_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut staging = Staging::new(false, &Patience::default());
    write(&mut staging, &path);
    fs::write(&path, "theirs").unwrap();
    assert!(matches!(staging.place(), Err(Error::Exists { .. })));
    assert!(matches!(
        Staging::new(false, &Patience::default()).create(&path, Rights::Private),
        Err(Error::Exists { .. })
    ));
    drop(staging);
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
}

#[test]
fn links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let [link, target] = ["link", "target"].map(|name| dir.path().join(name));
    fs::write(&target, "theirs").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    std::os::unix::fs::symlink(&target, part_of(&dir.path().join("x"))).unwrap();
    let mut staging = Staging::new(true, &Patience::default());
    let error = staging.create(&link, Rights::Private).err().unwrap();
    assert!(error.to_string().contains("link: a symbolic link to ") && !error.hint().unwrap().contains("--overwrite"));
    assert!(staging.create(&dir.path().join("x"), Rights::Private).is_err());
    assert!(staging.folder_within(&link, PRIVATE).is_err());
    assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
}

#[test]
fn leftover_of_an_interrupted_restore_is_replaced_but_a_locked_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(part_of(&path), "left").unwrap();
    let mut staging = Staging::new(false, &Patience::default());
    write(&mut staging, &path);
    assert!(Staging::new(false, &Patience::default()).create(&path, Rights::Private).is_err());
    staging.place().unwrap();
    staging.keep();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
}

#[test]
fn owner_and_mode_come_from_the_replaced_file_or_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let [old, fresh, private] = ["old", "fresh", "private"].map(|name| dir.path().join(name));
    fs::write(&old, "old").unwrap();
    fs::set_permissions(&old, Permissions::from_mode(0o4642)).unwrap();
    let own = fs::metadata(&old).unwrap();
    let named = Owner { uid: own.uid(), gid: own.gid(), mode: 0o640 };
    let mut staging = Staging::new(true, &Patience::default());
    staging.folder(&dir.path().join("a/b"), PASSABLE).unwrap();
    staging.create(&old, Rights::Kept(Some(named))).unwrap();
    staging.create(&fresh, Rights::Kept(Some(named))).unwrap();
    staging.create(&private, Rights::Private).unwrap();
    staging.place().unwrap();
    staging.keep();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!([mode(&old), mode(&fresh), mode(&private)], [0o640, 0o640, 0o600]);
    assert_eq!([mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))], [0o711, 0o711]);
}
