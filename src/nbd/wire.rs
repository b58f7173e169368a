//! Owns: one connection's bytes and its watchdog. Must not: know what the bytes mean.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use crate::sys::socket;

/// A connection on which nothing may stand still for longer than the timeout.
pub(super) struct Wire {
    stream: Arc<UnixStream>,
    socket: PathBuf,
    timeout: Duration,
}

/// Ends a connection from another thread: its reads and writes fail at once.
pub(super) struct Cutter(Arc<UnixStream>);

impl Cutter {
    pub fn cut(&self) {
        // A connection that is gone already is what is wanted.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Wire {
    pub fn connect(socket_path: &Path, timeout: Duration) -> Result<Wire, Error> {
        // The system takes a timeout of zero for none.
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

    /// As much text as is told, however odd its bytes; the caller has bounded the length.
    pub fn text(&mut self, length: usize) -> Result<String, Error> {
        let mut bytes = vec![0; length];
        self.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The server did what it may not.
    pub fn protocol(&self, what: &'static str) -> Error {
        Error::Protocol { socket: self.socket.clone(), what }
    }

    fn failed(&self, source: io::Error) -> Error {
        let socket = self.socket.clone();
        match source.kind() {
            // What a socket says when its timeout is over.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Stalled { socket, timeout: self.timeout },
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Error::Closed { socket }
            }
            _ => Error::Io { socket, source },
        }
    }
}
