//! Reports free space and mounts of a path. Must not decide how much is enough.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The space of a file system, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system.
    pub total: u64,
    /// Space that is available to this user.
    pub free: u64,
}

/// The space of the file system that contains `path`.
pub fn of(path: &Path) -> io::Result<Space> {
    let fs = rustix::fs::statvfs(path)?;
    Ok(Space { total: fs.f_blocks * fs.f_frsize, free: fs.f_bavail * fs.f_frsize })
}

/// Whether `path` is, or would be, on another file system than `/`.
pub fn is_off_root(path: &Path) -> io::Result<bool> {
    let is_missing =
        |found: &io::Result<_>| found.as_ref().is_err_and(|error: &io::Error| error.kind() == io::ErrorKind::NotFound);
    let found = path.ancestors().map(std::fs::metadata).find(|found| !is_missing(found));
    Ok(found.unwrap_or_else(|| std::fs::metadata("/"))?.dev() != std::fs::metadata("/")?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_counts_as_on_the_file_system_of_its_parent() {
        let off_root = |path: &str| is_off_root(Path::new(path)).ok();
        assert_eq!((off_root("/proc"), off_root("/proc/no-such-folder")), (Some(true), Some(true)));
        assert_eq!(
            (off_root("/"), off_root("/no-such-folder"), off_root("/no/such/folder")),
            (Some(false), Some(false), Some(false))
        );
    }
}
