//! Tests the store on a real directory.

use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;
mod two_targets;

use std::{fs, io};

use super::point::Kind;
use super::*;
use chrono::{DateTime, Utc};

use crate::model::PointId;

const ZSTD: Codec = Codec::Zstd(3);

fn time(id: &str) -> DateTime<Utc> {
    id.parse::<PointId>().unwrap().time()
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path(), &Patience::default()).unwrap();
    (dir, store)
}

fn publish(store: &Store, domain: &str, id: &str) -> Point {
    store.create(domain, time(id), ZSTD).unwrap().publish().unwrap()
}

#[test]
fn points_are_listed_in_order() {
    let (dir, store) = store();
    for domain in ["web", "my vm/..", "ü".repeat(120).as_str(), "-", ".."] {
        let later = publish(&store, domain, "20261122T020000Z");
        let earlier = publish(&store, domain, "20251122T020000Z");
        let taken = publish(&store, domain, "20251122T020000Z");
        assert_eq!(taken.id.to_string(), "20251122T020001Z");
        assert_eq!(store.points(domain).unwrap(), [earlier, taken.clone(), later.clone()]);
        assert!(
            later.path.starts_with(dir.path())
                && later.path.components().count() == dir.path().components().count() + 2
        );
        for path in [later.path.as_path(), later.path.parent().unwrap()] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o77, 0);
        }
        store.remove(&taken).unwrap();
        assert_eq!(store.points(domain).unwrap().len(), 2);
    }
    let mut expected = vec!["-".to_owned(), "..".into(), "my vm/..".into(), "web".into(), "ü".repeat(120)];
    expected.sort();
    assert_eq!(store.domains().unwrap().names, expected);
    assert!(store.points("unknown").unwrap().is_empty());
}

#[test]
fn dropped_partials_are_removed_and_their_second_is_taken_until_then() {
    let (_dir, store) = store();
    let at = time("20261122T020000Z");
    let first = store.create("web", at, ZSTD).unwrap();
    let second = store.create("web", at, Codec::None).unwrap();
    assert_ne!(first.id(), second.id());
    assert_eq!(store.partials("web").unwrap(), [first.path(), second.path()]);
    assert!(store.points("web").unwrap().is_empty());
    let path = first.path().to_owned();
    drop(first);
    assert!(!path.exists());
    std::mem::forget(second);
    assert_eq!(store.partials("web").unwrap().len(), 1);
}

#[test]
fn publishing_never_replaces_a_file() {
    let (dir, store) = store();
    let mut partial = store.create("web", time("20261122T020000Z"), ZSTD).unwrap();
    let (target, path) = (dir.path().join("web/web-20261122T020000Z.tar.zst"), partial.path().to_owned());
    fs::write(&target, "precious").unwrap();
    assert!(partial.publish().is_err());
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    partial.discard().unwrap();
    assert!(!path.exists());
}

#[test]
fn foreign_files_and_links_are_left_alone() {
    let (dir, store) = store();
    let point = publish(&store, "web", "20261122T020000Z");
    let folder = dir.path().join("web");
    fs::write(folder.join("notes.txt"), "").unwrap();
    fs::create_dir(folder.join("web-20261123T020000Z.tar.zst")).unwrap();
    symlink(&point.path, folder.join("web-20261124T020000Z.tar.zst")).unwrap();
    symlink("/etc/passwd", folder.join(".web-20261124T020000Z.part")).unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(store.points("web").unwrap(), [point]);
    assert_eq!(store.domains().unwrap().names, ["web"]);
    assert!(store.partials("web").unwrap().is_empty());
}

#[test]
fn legacy_archives_are_listed_and_never_removed() {
    let (dir, store) = store();
    let folder = dir.path().join("my vm");
    for (file, day) in [("my vm.tar.gz", "2016-05-02"), ("my vm.tar.gz.1", "2016-05-01")] {
        fs::create_dir_all(folder.join(day)).unwrap();
        fs::write(folder.join(day).join("my vm.xml"), "<domain/>").unwrap();
        let tar = Command::new("tar").arg("-czf").arg(folder.join(file)).arg(day).current_dir(&folder).status();
        assert!(tar.unwrap().success());
        fs::remove_dir_all(folder.join(day)).unwrap();
    }
    fs::write(folder.join("my vm.tar.gz.2"), "damaged").unwrap();
    fs::copy(folder.join("my vm.tar.gz.1"), folder.join("my vm.tar.gz.3")).unwrap();
    let ours = publish(&store, "my vm", "20261122T020000Z");
    let points = store.points("my vm").unwrap();
    let ids: Vec<_> = points.iter().map(|point| (point.kind, point.id.to_string())).collect();
    assert_eq!(ids[0], (Kind::Script { rotation: 3 }, "20160430T235959Z".to_owned()));
    assert_eq!(ids[1], (Kind::Script { rotation: 1 }, "20160501T000000Z".to_owned()));
    assert_eq!(ids[2], (Kind::Script { rotation: 0 }, "20160502T000000Z".to_owned()));
    assert!(points.contains(&ours) && points.len() == 5);
    assert!(matches!(store.remove(&points[0]), Err(Error::NotOurs { .. })));
    assert_eq!(store.domains().unwrap().names, ["my vm"]);
}

#[test]
fn missing_target_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = Store::at_or_create(&dir.path().join("a/b"), &Patience::default()).unwrap_err();
    assert!(error.hint().is_some());
    assert!(Store::at(&dir.path().join("a"), &Patience::default()).is_err());
    let store = Store::at_or_create(&dir.path().join("a"), &Patience::default()).unwrap();
    assert!(store.domains().unwrap().names.is_empty());
}

#[test]
fn partial_is_recorded_before_it_exists() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path(), &Patience::default()).unwrap();
    let mut noted = Vec::new();
    let partial = store.target.create_noted("web", NewId::Taken(Utc::now()), Codec::None, |path| {
        noted.push((path.to_owned(), path.exists()));
        Ok::<_, Error>(())
    });
    assert_eq!(noted, [(partial.unwrap().path().to_owned(), false)]);
    let refused = store.target.create_noted("web", NewId::Taken(Utc::now()), Codec::None, |path| {
        Err(Error::NotOurs { path: path.to_owned() })
    });
    assert!(refused.is_err());
    assert_eq!(store.partials("web").unwrap(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn name_taken_by_another_process_is_not_used() {
    let (dir, store) = store();
    let mut noted = Vec::new();
    let partial = store.target.create_noted("web", NewId::Taken(time("20261122T020000Z")), ZSTD, |path| {
        if noted.is_empty() {
            fs::write(path, "theirs").unwrap();
        }
        noted.push(path.to_owned());
        Ok::<_, Error>(())
    });
    let partial = partial.unwrap();
    assert_eq!((partial.id().to_string().as_str(), noted.len()), ("20261122T020001Z", 2));
    assert_eq!(fs::read(&noted[0]).unwrap(), b"theirs");
    let gone = store.target.create_noted("db", NewId::Taken(time("20261122T020000Z")), ZSTD, |_| {
        fs::remove_dir(dir.path().join("db")).unwrap();
        Ok::<_, Error>(())
    });
    assert!(matches!(gone.unwrap_err(), Error::File { action: "create", .. }));
}

#[test]
fn failed_removal_of_a_partial_is_reported() {
    let (_dir, store) = store();
    let partial = store.create("web", time("20261122T020000Z"), ZSTD).unwrap();
    fs::remove_file(partial.path()).unwrap();
    fs::create_dir(partial.path()).unwrap();
    assert!(matches!(partial.discard(), Err(Error::File { action: "remove", .. })));
}

#[test]
fn failed_directory_creation_reports_the_original_cause() {
    // Not even root can create directories there.
    let kernel = Path::new("/sys");
    let target = Store::at_or_create(&kernel.join("backups"), &Patience::default()).unwrap_err();
    assert!(matches!(target, Error::Target { source, .. } if source.kind() != io::ErrorKind::NotFound));
    let domain = Store::at(kernel, &Patience::default()).unwrap().create("web", Utc::now(), ZSTD).unwrap_err();
    assert!(matches!(domain, Error::File { source, .. } if source.kind() != io::ErrorKind::NotFound));
    let dir = tempfile::tempdir().unwrap();
    Store::at_or_create(dir.path(), &Patience::default()).expect("an existing directory is accepted");
}

#[test]
fn domain_file_is_written_once_and_only_for_a_shortened_name() {
    let (dir, store) = store();
    publish(&store, "web", "20261122T020000Z");
    assert!(!dir.path().join("web/.domain").exists());
    let long = "x".repeat(300);
    let point = publish(&store, &long, "20261122T020000Z");
    let note = point.path.with_file_name(".domain");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let first = inode(&note);
    publish(&store, &long, "20261122T020100Z");
    assert_eq!((fs::read_to_string(&note).unwrap(), inode(&note)), (long, first));
}

#[test]
fn no_domain_name_reads_outside_the_target() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("...tar.gz"), "").unwrap();
    fs::create_dir(dir.path().join("b")).unwrap();
    let store = Store::at(&dir.path().join("b"), &Patience::default()).unwrap();
    assert_eq!(store.points("..").unwrap(), []);
    fs::write(dir.path().join("b/web"), "").unwrap();
    assert!(matches!(store.points("web"), Err(Error::File { action: "list", .. })));
}

#[test]
fn age_of_a_legacy_archive_is_its_modification_time_unless_its_date_contradicts_it() {
    let (dir, store) = store();
    let folder = dir.path().join("web");
    fs::create_dir_all(folder.join("2016-05-02")).unwrap();
    fs::write(folder.join("2016-05-02/web.xml"), "<domain/>").unwrap();
    let archive = folder.join("web.tar.gz");
    let tar = Command::new("tar").arg("-czf").arg(&archive).arg("2016-05-02").current_dir(&folder).status();
    assert!(tar.unwrap().success());
    let cases = [
        ("20160502T103000Z", "20160502T103000Z"),
        // Another time zone.
        ("20160501T140000Z", "20160501T140000Z"),
        // Long after midnight.
        ("20160504T080000Z", "20160504T080000Z"),
        ("20160430T100000Z", "20160502T000000Z"),
        ("20160505T000000Z", "20160502T000000Z"),
    ];
    for (changed, id) in cases {
        fs::File::options().write(true).open(&archive).unwrap().set_modified(time(changed).into()).unwrap();
        assert_eq!(store.points("web").unwrap()[0].id.to_string(), id, "changed at {changed}");
    }
}

#[test]
fn legacy_archive_with_a_time_outside_the_calendar_is_listed() {
    // tmpfs can store such a time.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::create_dir(dir.path().join("web")).unwrap();
    let archive = dir.path().join("web/web.tar.gz");
    fs::write(&archive, "").unwrap();
    let far = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1 << 60);
    fs::File::options().write(true).open(&archive).unwrap().set_modified(far).unwrap();
    let [point] = &Store::at(dir.path(), &Patience::default()).unwrap().points("web").unwrap()[..] else {
        panic!("the archive is not listed")
    };
    assert_eq!(point.id.to_string(), "19700101T000000Z");
}

#[test]
fn hung_target_is_remembered_and_errors_have_hints() {
    let (dir, mut store) = store();
    let patience = Patience::new(std::time::Duration::from_millis(1));
    store.target.patience = patience.clone();
    let (release, held) = std::sync::mpsc::channel::<()>();
    patience.call(move || held.recv()).unwrap_err();
    assert!(store.patience().call(|| ()).is_err(), "both must share the patience");
    let stalled = store.domains().unwrap_err();
    assert!(stalled.is_stall());
    drop(release);

    let path = || dir.path().to_owned();
    let file = |kind: io::ErrorKind| Error::File { action: "list", path: path(), source: kind.into() };
    let full = "Free space on the target, or keep fewer restore points.".to_owned();
    let target = Error::Target { path: path(), source: io::ErrorKind::NotFound.into() };
    assert!(!target.is_stall() && !file(io::ErrorKind::TimedOut).is_stall());
    let path = dir.path().display();
    for (error, hint) in [
        (stalled, Some(crate::sys::patience::Stalled::HINT.to_owned())),
        (target, Some(format!("Mount the target. If it is not a mount, create the directory: mkdir -p {path}"))),
        (Error::NotOurs { path: dir.path().to_owned() }, Some(format!("Remove it by hand: rm {path}"))),
        (file(io::ErrorKind::StorageFull), Some(full)),
        (
            file(io::ErrorKind::PermissionDenied),
            Some(format!("Check who owns it and where it points: ls -ld {path}; findmnt -T {path}")),
        ),
    ] {
        assert_eq!(error.hint(), hint, "{error}");
    }
}

#[test]
fn directory_replaced_by_a_link_during_the_backup_receives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, moved, trap) = (dir.path().join("a"), dir.path().join("moved"), dir.path().join("trap"));
    let store = Store::at(dir.path(), &Patience::default()).unwrap();
    let mut partial = store.create("a", Utc::now(), Codec::None).unwrap();
    fs::create_dir(&trap).unwrap();
    fs::rename(&folder, &moved).unwrap();
    symlink(&trap, &folder).unwrap();
    // The writer continues in the directory that it opened, even after a rename.
    partial.publish().unwrap();
    assert_eq!((fs::read_dir(&trap).unwrap().count(), fs::read_dir(&moved).unwrap().count()), (0, 1));
}
