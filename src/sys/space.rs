//! Owns: free space and mounts of a path. Must not: decide what is enough.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file system's room, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total: u64,
    /// What this user may still write.
    pub free: u64,
}

/// The room of the file system that holds `path`.
pub fn of(path: &Path) -> io::Result<Space> {
    let fs = rustix::fs::statvfs(path)?;
    Ok(Space { total: fs.f_blocks * fs.f_frsize, free: fs.f_bavail * fs.f_frsize })
}

/// Whether `path` lies on another file system than `/`, or would if it existed.
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
    fn a_missing_folder_would_lie_where_its_parent_does() {
        let off_root = |path: &str| is_off_root(Path::new(path)).ok();
        assert_eq!((off_root("/proc"), off_root("/proc/no-such-folder")), (Some(true), Some(true)));
        assert_eq!(
            (off_root("/"), off_root("/no-such-folder"), off_root("/no/such/folder")),
            (Some(false), Some(false), Some(false))
        );
    }
}
