//! Owns: connecting to unix sockets wherever they lie. Must not: know what is spoken there.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// The longest path that the kernel takes as a socket's address (`sun_path` of `man 7 unix`, without the final zero).
pub const MAX_PATH: usize = 107;

/// Connects to a socket whose path may be longer than an address: by way of its folder, held open.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_with_a_long_path_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("x".repeat(200));
        std::fs::create_dir(&folder).unwrap();
        let short = dir.path().join("s");
        let _listener = UnixListener::bind(&short).unwrap();
        std::fs::rename(short, folder.join("s")).unwrap();
        assert!(UnixStream::connect(folder.join("s")).is_err(), "it is longer than an address");
        connect(&folder.join("s")).unwrap();
        let missing = connect(&folder.join("t")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
