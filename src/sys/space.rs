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

/// Whether `path` lies on another file system than `/`.
pub fn is_off_root(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.dev() != std::fs::metadata("/")?.dev())
}
