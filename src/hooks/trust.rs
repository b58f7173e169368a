//! Decides which files of this host may be run as a hook. Must not run them.

use std::path::Path;

use rustix::fs::Access;

use super::Error;
use crate::sys::shebang;
use crate::sys::trust::{self, Refused, Wrong};

/// Refuses a program that another user could change, because kvmbackup often runs it as root. It must be the absolute
/// path of an executable that passes [`trust::file`]. The interpreter of a script must exist.
///
/// # Errors
/// [`Error::Untrusted`] with the reason; [`Error::Look`] if it does not exist.
pub fn check_file(path: &Path) -> Result<(), Error> {
    let refused = |refused| match refused {
        Refused::Untrusted { path, what } => Error::Untrusted { path, what },
        Refused::Look { path, source } => Error::Look { path, source },
    };
    trust::file(path).map_err(refused)?;
    if rustix::fs::access(path, Access::EXEC_OK).is_err() {
        return Err(Error::Untrusted { path: path.to_owned(), what: Wrong::NotExecutable });
    }
    shebang::check(path).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn program_must_be_executable_and_not_writable_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        for (mode, wrong) in [(0o755, None), (0o644, Some(Wrong::NotExecutable)), (0o775, Some(Wrong::Writable))] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match (check_file(&path), wrong) {
                (Ok(()), None) => {}
                (Err(Error::Untrusted { what, .. }), Some(wrong)) => assert_eq!(what, wrong),
                (other, _) => panic!("{mode:o}: {other:?}"),
            }
        }
        assert!(matches!(check_file(&folder.path().join("none")), Err(Error::Look { .. })));
    }
}
