//! Owns: which files of this host may be run as a hook. Must not: run them.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::Error;
use crate::sys::owner;

/// Links that are followed, as many as Linux does (path_resolution(7)).
const MAX_LINKS: usize = 40;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Refuses a program that somebody could change who may not do what we may: kvmbackup runs it, often as root.
///
/// It must be an absolute path of a regular file that is executable, not writable by group or others, and owned by root, or
/// by us when we are not root. The folder it lies in must be so too, where a sticky one may be writable. Where it is a link,
/// the same holds for the link's owner and folder, and for all that it points to.
///
/// # Errors
/// [`Error::Untrusted`] with what is wrong, [`Error::Look`] when it is not there.
pub fn check_file(path: &Path) -> Result<(), Error> {
    if !path.is_absolute() {
        return untrusted(path, "its path is not absolute");
    }
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        let folder = at.parent().unwrap_or(Path::new("/")).to_owned();
        check_folder(&folder)?;
        let found = fs::symlink_metadata(&at).map_err(look(&at))?;
        if !owner::is_trusted(found.uid()) {
            return untrusted(&at, "it is owned by somebody else");
        }
        if !found.is_symlink() {
            return check_program(&at, &found);
        }
        at = folder.join(fs::read_link(&at).map_err(look(&at))?);
    }
    untrusted(path, "it is a link without end")
}

fn check_folder(folder: &Path) -> Result<(), Error> {
    let found = fs::metadata(folder).map_err(look(folder))?;
    if !owner::is_trusted(found.uid()) {
        return untrusted(folder, "the folder is owned by somebody else");
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 && found.mode() & STICKY == 0 {
        return untrusted(folder, "the folder is writable by its group or by others");
    }
    Ok(())
}

fn check_program(path: &Path, found: &Metadata) -> Result<(), Error> {
    if !found.is_file() {
        return untrusted(path, "it is not a regular file");
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return untrusted(path, "it is writable by its group or by others");
    }
    if rustix::fs::access(path, Access::EXEC_OK).is_err() {
        return untrusted(path, "it is not executable");
    }
    Ok(())
}

fn look(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Look { path, source }
}

fn untrusted(path: &Path, what: &'static str) -> Result<(), Error> {
    Err(Error::Untrusted { path: PathBuf::from(path), what })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// A folder with a program in it, of these modes.
    fn program(folder_mode: u32, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(folder_mode)).unwrap();
        (folder, path)
    }

    fn refusal(path: &Path) -> &'static str {
        match check_file(path) {
            Err(Error::Untrusted { what, .. }) => what,
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    #[test]
    fn a_program_that_only_its_owner_can_change_is_taken() {
        for (folder_mode, mode) in [(0o755, 0o755), (0o700, 0o500), (0o1777, 0o755)] {
            let (_folder, path) = program(folder_mode, mode);
            check_file(&path).unwrap();
        }
        // On Debian /bin is itself a link.
        check_file(Path::new("/bin/sh")).unwrap();
    }

    #[test]
    fn a_program_that_others_can_change_is_not() {
        for mode in [0o775, 0o757, 0o777] {
            let (_folder, path) = program(0o755, mode);
            assert_eq!(refusal(&path), "it is writable by its group or by others");
        }
        for mode in [0o775, 0o757] {
            let (_folder, path) = program(mode, 0o755);
            assert_eq!(refusal(&path), "the folder is writable by its group or by others");
        }
    }

    #[test]
    fn what_is_no_program_is_not_taken() {
        let (folder, path) = program(0o755, 0o644);
        assert_eq!(refusal(&path), "it is not executable");
        assert_eq!(refusal(folder.path()), "it is not a regular file");
        assert_eq!(refusal(Path::new("bin/sh")), "its path is not absolute");
        assert!(matches!(check_file(&folder.path().join("none")), Err(Error::Look { .. })));
        let circle = folder.path().join("circle");
        symlink("circle", &circle).unwrap();
        assert_eq!(refusal(&circle), "it is a link without end");
    }

    #[test]
    fn a_link_is_as_good_as_what_it_points_to() {
        let (good, _) = program(0o755, 0o755);
        let (bad_file, _) = program(0o755, 0o775);
        let (bad_folder, _) = program(0o777, 0o755);
        let links = tempfile::tempdir().unwrap();
        let link = |name: &str, to: &Path| {
            let path = links.path().join(name);
            symlink(to, &path).unwrap();
            path
        };
        let direct = link("direct", &good.path().join("hook"));
        check_file(&direct).unwrap();
        check_file(&link("relative", Path::new("direct"))).unwrap();
        assert_eq!(refusal(&link("file", &bad_file.path().join("hook"))), "it is writable by its group or by others");
        let far = link("far", &link("near", &bad_folder.path().join("hook")));
        assert_eq!(refusal(&far), "the folder is writable by its group or by others");
    }

    #[test]
    fn somebody_elses_is_not_taken_by_root() {
        if !rustix::process::geteuid().is_root() {
            return; // only root can give a file away
        }
        let (folder, path) = program(0o755, 0o755);
        let link = folder.path().join("link");
        symlink("/bin/sh", &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
        assert_eq!(refusal(&link), "it is owned by somebody else");
        chown(&path, Some(65534), None).unwrap();
        assert_eq!(refusal(&path), "it is owned by somebody else");
        chown(folder.path(), Some(65534), None).unwrap();
        assert_eq!(refusal(&path), "the folder is owned by somebody else");
    }
}
