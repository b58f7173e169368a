//! Staging on real file systems.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::rename::place_aside;
use super::*;

fn write(staging: &mut Staging, path: &Path) {
    staging.create(path, Rights::Private).unwrap().with(|mut file| file.write_all(b"new")).unwrap();
}

#[test]
fn dropped_it_leaves_nothing_and_puts_back_what_was_there() {
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
fn kept_it_leaves_no_temporary_name() {
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

/// As on a file system whose rename has no flags.
fn plain(overwrite: bool) -> Staging {
    let mut staging = Staging::new(overwrite, &Patience::default());
    staging.rename = |_, _, _| Err(Errno::INVAL);
    staging
}

#[test]
fn without_an_exchange_the_old_file_is_kept_until_the_end_too() {
    let dir = tempfile::tempdir().unwrap();
    let [old, fresh, late] = ["old", "fresh", "late"].map(|name| dir.path().join(name));
    fs::write(&old, "old").unwrap();
    let mut staging = plain(true);
    write(&mut staging, &old);
    write(&mut staging, &fresh);
    staging.place().unwrap();
    assert_eq!(fs::read_to_string(&old).unwrap(), "new");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "the old one is gone too early");
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
fn a_file_that_cannot_be_placed_does_not_cost_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    fs::write(&old, "old").unwrap();
    assert!(place_aside(&part_of(&old), &old).is_err());
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn without_overwrite_nothing_is_replaced_even_late() {
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
fn what_an_interrupted_restore_left_gives_way_and_what_is_written_does_not() {
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
fn a_replaced_file_gives_its_rights_and_a_new_one_gets_those_that_are_named() {
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
