//! Owns: checking that only root, or the user of this process, can change or replace a file or folder. Must not: open or run it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::owner;

/// Links that are followed, as many as Linux does (path_resolution(7)).
const MAX_LINKS: usize = 40;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why a path is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another user can change it, or it is of the wrong kind.
    #[error("{}: {what}", .path.display())]
    Untrusted {
        /// The file or folder on the way to it, or itself.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// It cannot be looked at.
    #[error("cannot look at {}", .path.display())]
    Look {
        /// The file or folder on the way to it, or itself.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Refused {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Refused::Untrusted { path, .. } => Some(format!(
                "allow only root to change it (see: ls -ld '{}'), or choose another place",
                path.display()
            )),
            Refused::Look { .. } => None,
        }
    }
}

/// A regular file that only a trusted user can write, in folders that only trusted users can change.
///
/// # Errors
/// [`Refused`] names the first file, folder or link on the path that another user could change.
pub fn file(path: &Path) -> Result<(), Refused> {
    let (real, found) = walk(path)?;
    if !found.is_file() {
        return untrusted(&real, "it is not a regular file");
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return untrusted(&real, "it is writable by its group or by others");
    }
    Ok(())
}

/// A folder that only a trusted user can write, in folders that only trusted users can change.
///
/// # Errors
/// As [`file()`] has them.
pub fn folder(path: &Path) -> Result<(), Refused> {
    let (real, found) = walk(path)?;
    if !found.is_dir() {
        return untrusted(&real, "it is not a folder");
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return untrusted(&real, "the folder is writable by its group or by others");
    }
    Ok(())
}

/// The same for a folder that may not exist yet: checks the nearest existing folder above it.
///
/// # Errors
/// As [`file()`] has them.
pub fn future_folder(path: &Path) -> Result<(), Refused> {
    let path = std::path::absolute(path).map_err(look(path))?;
    let exists = |folder: &&Path| fs::symlink_metadata(folder).is_ok();
    let existing = path.ancestors().find(exists).unwrap_or(Path::new("/"));
    if existing == path {
        return folder(existing);
    }
    // In a sticky folder, a new folder can be replaced only by its owner.
    let (real, found) = walk(existing)?;
    check_folder(&real, &found)
}

/// Follows a path as the kernel does, checking every folder and link on the way, and the owner of the result.
fn walk(path: &Path) -> Result<(PathBuf, Metadata), Refused> {
    if !path.is_absolute() {
        return untrusted(path, "its path is not absolute");
    }
    let mut rest: VecDeque<OsString> = parts(path);
    let mut at = PathBuf::from("/");
    let mut found = fs::metadata(&at).map_err(look(&at))?;
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == *".." {
            at.pop();
            found = fs::symlink_metadata(&at).map_err(look(&at))?;
            continue;
        }
        check_folder(&at, &found)?;
        let next = at.join(&part);
        let status = fs::symlink_metadata(&next).map_err(look(&next))?;
        if !status.is_symlink() {
            (at, found) = (next, status);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return untrusted(path, "it is a link without end");
        }
        if !owner::is_trusted(status.uid()) {
            return untrusted(&next, "it is owned by another user");
        }
        let target = fs::read_link(&next).map_err(look(&next))?;
        for part in parts(&target).into_iter().rev() {
            rest.push_front(part);
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
            found = fs::metadata(&at).map_err(look(&at))?;
        }
    }
    if !owner::is_trusted(found.uid()) {
        return untrusted(&at, "it is owned by another user");
    }
    Ok((at, found))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// Fails if another user could replace a trusted file in this folder.
fn check_folder(path: &Path, found: &Metadata) -> Result<(), Refused> {
    if !owner::is_trusted(found.uid()) {
        return untrusted(path, "the folder is owned by another user");
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 && found.mode() & STICKY == 0 {
        return untrusted(path, "the folder is writable by its group or by others");
    }
    Ok(())
}

fn look(path: &Path) -> impl FnOnce(io::Error) -> Refused {
    let path = path.to_owned();
    |source| Refused::Look { path, source }
}

fn untrusted<T>(path: &Path, what: &'static str) -> Result<T, Refused> {
    Err(Refused::Untrusted { path: path.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// A folder with a file in it, of these modes.
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

    fn refusal(judged: Result<(), Refused>) -> &'static str {
        match judged {
            Err(Refused::Untrusted { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    }

    const OTHERS: &str = "the folder is writable by its group or by others";

    #[test]
    fn what_only_its_owner_can_change_is_trusted() {
        for (folder_mode, mode) in [(0o755, 0o755), (0o700, 0o500), (0o1777, 0o644)] {
            let (_folder, path) = made(folder_mode, mode);
            file(&path).unwrap();
        }
        // On Debian /bin is itself a link.
        file(Path::new("/bin/sh")).unwrap();
        let (directory, _) = made(0o755, 0o644);
        folder(directory.path()).unwrap();
    }

    #[test]
    fn every_folder_above_counts() {
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
        assert_eq!(refusal(future_folder(sticky.path())), OTHERS, "others can make files in it");
    }

    #[test]
    fn a_link_is_as_good_as_every_step_of_its_way() {
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
        assert_eq!(refusal(file(&link("circle", Path::new("circle")))), "it is a link without end");
    }

    #[test]
    fn what_it_has_to_be_is_told() {
        let (directory, path) = made(0o755, 0o666);
        assert_eq!(refusal(file(&path)), "it is writable by its group or by others");
        assert_eq!(refusal(file(directory.path())), "it is not a regular file");
        assert_eq!(refusal(folder(&path)), "it is not a folder");
        assert_eq!(refusal(file(Path::new("bin/sh"))), "its path is not absolute");
        assert!(matches!(file(&directory.path().join("none")), Err(Refused::Look { .. })));
    }

    #[test]
    fn another_users_is_not_trusted_by_root() {
        if !rustix::process::geteuid().is_root() {
            return; // only root can give a file away
        }
        let (directory, path) = made(0o755, 0o755);
        let link = directory.path().join("link");
        symlink("/bin/sh", &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
        assert_eq!(refusal(file(&link)), "it is owned by another user");
        chown(&path, Some(65534), None).unwrap();
        assert_eq!(refusal(file(&path)), "it is owned by another user");
        chown(directory.path(), Some(65534), None).unwrap();
        assert_eq!(refusal(file(&path)), "the folder is owned by another user");
    }
}
