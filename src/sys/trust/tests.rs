//! Tests which real files are trusted, and the reasons for the others.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use super::*;

/// A directory with a file, with these modes.
fn made(folder_mode: u32, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "").unwrap();
    set(&path, mode);
    set(folder.path(), folder_mode);
    (folder, path)
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn refusal(judged: Result<(), Refused>) -> Wrong {
    match judged {
        Err(Refused::Untrusted { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

const OTHERS: Wrong = Wrong::FolderWritable;

#[test]
fn files_that_only_their_owner_can_change_are_trusted() {
    for (folder_mode, mode) in [(0o755, 0o755), (0o700, 0o500), (0o1777, 0o644)] {
        let (_folder, path) = made(folder_mode, mode);
        file(&path).unwrap();
    }
    // /bin is a link on Debian.
    file(Path::new("/bin/sh")).unwrap();
    let (directory, _) = made(0o755, 0o644);
    folder(directory.path()).unwrap();
}

#[test]
fn every_directory_above_is_checked() {
    for mode in [0o775, 0o757] {
        let (above, _) = made(0o755, 0o644);
        fs::create_dir_all(above.path().join("a/b")).unwrap();
        let path = above.path().join("a/b/file");
        fs::write(&path, "").unwrap();
        file(&path).unwrap();
        set(above.path(), mode);
        assert_eq!(refusal(file(&path)), OTHERS);
        assert_eq!(refusal(folder(path.parent().unwrap())), OTHERS);
        assert_eq!(refusal(future_folder(&above.path().join("new/one"))), OTHERS);
    }
    let (sticky, _) = made(0o1777, 0o644);
    future_folder(&sticky.path().join("new/one")).unwrap();
    assert_eq!(refusal(future_folder(sticky.path())), OTHERS, "others can create files in it");
}

#[test]
fn every_step_of_a_link_is_checked() {
    let (good, _) = made(0o755, 0o755);
    let (bad, _) = made(0o777, 0o755);
    let links = tempfile::tempdir().unwrap();
    let link = |name: &str, to: &Path| {
        let path = links.path().join(name);
        symlink(to, &path).unwrap();
        path
    };
    link("direct", &good.path().join("file"));
    file(&link("relative", Path::new("direct"))).unwrap();
    let far = link("far", &link("near", &bad.path().join("file")));
    assert_eq!(refusal(file(&far)), OTHERS);
    let through = link("folder", bad.path());
    assert_eq!(refusal(file(&through.join("file"))), OTHERS);
    assert_eq!(refusal(file(&link("circle", Path::new("circle")))), Wrong::Endless);
}

#[test]
fn wrong_types_and_modes_are_reported() {
    let (directory, path) = made(0o755, 0o666);
    assert_eq!(refusal(file(&path)), Wrong::Writable);
    assert_eq!(refusal(file(directory.path())), Wrong::NoFile);
    assert_eq!(refusal(folder(&path)), Wrong::NoFolder);
    assert_eq!(refusal(file(Path::new("bin/sh"))), Wrong::Relative);
    assert!(matches!(file(&directory.path().join("none")), Err(Refused::Look { .. })));
}

#[test]
fn files_of_another_user_are_not_trusted_by_root() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can change owners
    }
    let (directory, path) = made(0o755, 0o755);
    let link = directory.path().join("link");
    symlink("/bin/sh", &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
    assert_eq!(refusal(file(&link)), Wrong::Owned);
    chown(&path, Some(65534), None).unwrap();
    assert_eq!(refusal(file(&path)), Wrong::Owned);
    chown(directory.path(), Some(65534), None).unwrap();
    assert_eq!(refusal(file(&path)), Wrong::FolderOwned);
}
