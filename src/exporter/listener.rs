//! The listening socket, TCP or unix. Callers see only streams. It must not know HTTP.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Error;
use crate::model::Listen;

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 128;
/// The mode of a unix socket: its owner and group may connect.
const MODE: u32 = 0o660;

/// A non-blocking listening socket. Dropping it removes its file.
#[derive(Debug)]
pub struct Listener {
    socket: Socket<TcpListener, UnixListener>,
    file: Option<SocketFile>,
    listen: Listen,
    is_loopback: bool,
}

#[derive(Debug)]
enum Socket<T, U> {
    Tcp(T),
    Unix(U),
}

/// The connection to a peer.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Listener {
    /// Listens. A socket file without a listener is replaced.
    ///
    /// # Errors
    /// [`Error::Taken`] if another program listens there; otherwise the error of the system.
    pub fn bind(listen: &Listen) -> Result<Listener, Error> {
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => Error::Taken { listen: listen.clone() },
            _ => Error::Listen { listen: listen.clone(), source },
        };
        match listen {
            Listen::Tcp { host, port } => tcp(host, *port).map_err(refused),
            Listen::Unix(path) => {
                if !remove_stale(path).map_err(refused)? {
                    return Err(Error::NoSocket { listen: listen.clone() });
                }
                unix(path).map_err(refused)
            }
        }
    }

    /// The address; port 0 is replaced by the port that the system chose.
    pub fn listen(&self) -> &Listen {
        &self.listen
    }

    /// Whether only this host can connect.
    pub fn is_local(&self) -> bool {
        self.file.is_some() || self.is_loopback
    }

    /// Converts it for the runtime of this thread.
    pub(super) fn open(self) -> io::Result<Door> {
        let socket = match self.socket {
            Socket::Tcp(socket) => Socket::Tcp(tokio::net::TcpListener::from_std(socket)?),
            Socket::Unix(socket) => Socket::Unix(tokio::net::UnixListener::from_std(socket)?),
        };
        Ok(Door { socket, listen: self.listen, _file: self.file })
    }
}

/// A listener that accepts peers.
pub(super) struct Door {
    socket: Socket<tokio::net::TcpListener, tokio::net::UnixListener>,
    listen: Listen,
    _file: Option<SocketFile>,
}

impl Door {
    /// The next peer, and the local address that it connected to.
    pub async fn accept(&self) -> io::Result<(Box<dyn Stream>, Listen)> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (peer, _) = socket.accept().await?;
                let at = tcp_end(peer.local_addr()?);
                Ok((Box::new(peer), at))
            }
            Socket::Unix(socket) => Ok((Box::new(socket.accept().await?.0), self.listen.clone())),
        }
    }
}

/// The file of a socket: its path and identity, so no other file is removed.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|file| (file.dev(), file.ino()))
}

/// An address of a TCP connection in canonical form.
pub(super) fn tcp_end(address: SocketAddr) -> Listen {
    Listen::Tcp { host: address.ip().to_canonical().to_string(), port: address.port() }
}

fn tcp(host: &str, port: u16) -> io::Result<Listener> {
    let socket = TcpListener::bind((host, port))?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let is_loopback = address.ip().is_loopback();
    let listen = Listen::Tcp { host: host.to_owned(), port: address.port() };
    Ok(Listener { socket: Socket::Tcp(socket), file: None, listen, is_loopback })
}

fn unix(path: &Path) -> io::Result<Listener> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux creates the file with the mode of the socket minus the umask, so it is never too permissive.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
    // The umask removed bits. chmod(2) by path would follow a link that replaced the socket.
    let made = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&made)?.st_mode) == FileType::Socket {
        fs::set_permissions(format!("/proc/self/fd/{}", made.as_raw_fd()), Permissions::from_mode(MODE))?;
    }
    rustix::net::listen(&socket, BACKLOG)?;
    let listen = Listen::Unix(path.to_owned());
    Ok(Listener { socket: Socket::Unix(socket.into()), file: Some(file), listen, is_loopback: false })
}

/// Removes the socket of a killed process. Returns false if the file is not a socket.
fn remove_stale(path: &Path) -> io::Result<bool> {
    let file = match path.symlink_metadata() {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Ok(false);
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map(|()| true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> Listen {
        Listen::Unix(path.to_owned())
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        // Its listener has ended, but its file still exists.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let live = Listener::bind(&at(&path)).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, MODE);
        let refused = Listener::bind(&at(&path)).unwrap_err();
        assert!(matches!(refused, Error::Taken { .. }) && refused.hint().is_some());
        UnixStream::connect(&path).unwrap();
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&at(&path)), Err(Error::NoSocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(matches!(Listener::bind(&at(&dir.path().join("no/s"))), Err(Error::Listen { .. })));
    }

    #[test]
    fn the_file_of_another_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Listener::bind(&at(&path)).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        let second = Listener::bind(&at(&path)).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }

    #[test]
    fn a_free_port_is_told_and_a_taken_one_refused() {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&any).unwrap();
        assert!(listener.is_local());
        assert_ne!(listener.listen(), &any);
        assert!(matches!(Listener::bind(listener.listen()), Err(Error::Taken { .. })));
        assert!(!Listener::bind(&"0.0.0.0:0".parse().unwrap()).unwrap().is_local());
    }
}
