//! Connects to Unix sockets with paths of any length. Must not know the protocol.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// The longest path in the address of a socket, in bytes (`sun_path` of unix(7), without the final zero).
pub const MAX_PATH: usize = 107;

/// Connects through an open handle of the socket's directory, because the path may be longer than [`MAX_PATH`].
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
    fn a_socket_with_a_long_path_is_reachable() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("x".repeat(200));
        std::fs::create_dir(&folder).unwrap();
        let short = dir.path().join("s");
        let _listener = UnixListener::bind(&short).unwrap();
        std::fs::rename(short, folder.join("s")).unwrap();
        assert!(UnixStream::connect(folder.join("s")).is_err(), "the path is longer than an address");
        connect(&folder.join("s")).unwrap();
        let missing = connect(&folder.join("t")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
