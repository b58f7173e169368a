//! Reads and writes the bytes of one connection with a timeout. Must not know what they mean.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use crate::sys::socket;

/// A connection on which every read and write has a timeout.
pub(super) struct Wire {
    stream: Arc<UnixStream>,
    socket: PathBuf,
    timeout: Duration,
}

/// Closes a connection from another thread: pending reads and writes fail at once.
pub(super) struct Cutter(Arc<UnixStream>);

impl Cutter {
    pub fn cut(&self) {
        // Fails only if the connection is already closed.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Wire {
    pub fn connect(socket_path: &Path, timeout: Duration) -> Result<Wire, Error> {
        // For the system, zero means no timeout.
        let timeout = timeout.max(Duration::from_millis(1));
        let connect = || {
            let stream = socket::connect(socket_path)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            Ok(stream)
        };
        let stream = connect().map_err(|source| Error::Connect { socket: socket_path.to_owned(), source })?;
        Ok(Wire { stream: Arc::new(stream), socket: socket_path.to_owned(), timeout })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn cutter(&self) -> Cutter {
        Cutter(Arc::clone(&self.stream))
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        (&*self.stream).read_exact(buffer).map_err(|error| self.failed(error))
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        (&*self.stream).write_all(bytes).map_err(|error| self.failed(error))
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads text and replaces invalid UTF-8. The caller has limited the length.
    pub fn text(&mut self, length: usize) -> Result<String, Error> {
        let mut bytes = vec![0; length];
        self.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn protocol(&self, what: &'static str) -> Error {
        Error::Protocol { socket: self.socket.clone(), what }
    }

    fn failed(&self, source: io::Error) -> Error {
        let socket = self.socket.clone();
        match source.kind() {
            // Both kinds mean that the socket's timeout expired.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Stalled { socket, timeout: self.timeout },
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Error::Closed { socket }
            }
            _ => Error::Io { socket, source },
        }
    }
}
