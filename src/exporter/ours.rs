//! Lets a run verify that an exporter of its own state directory serves an address. It must not serve pages.
//!
//! Any user can listen on a free port and pretend to be the exporter. So the run writes a nonce to the private state directory, and
//! the server must respond with a hash of the nonce and the address that the run connected to. A response relayed from an
//! exporter at another address therefore proves nothing.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::listener;
use crate::model::Listen;
use crate::sys::{durable, opened};

/// The path of the request.
pub(super) const PATH: &str = "/-/nonce";
/// The file name of the nonce in the state directory.
const FILE: &str = "exporter.nonce";
/// Its maximum size, in bytes.
const MAX: u64 = 4 << 10;
/// Timeout for connecting and for each read of the response.
const LONG: Duration = Duration::from_secs(5);

/// Whether an exporter of this state directory serves the address and responds within seconds. The caller has the lock of the
/// state directory, so only one run asks at a time.
///
/// # Errors
/// The state directory cannot be written.
pub fn is_ours(listen: &Listen, state_dir: &Path) -> io::Result<bool> {
    let nonce = Nonce::leave(state_dir)?;
    Ok(ask(listen).is_ok_and(|(at, answer)| answer.ends_with(&format!("\r\n\r\n{}\n", proof(&nonce.secret, &at)))))
}

/// The proof for a peer that connected to `at`; `None` while no run asks.
pub(super) fn answer(state_dir: &Path, at: &Listen) -> Option<String> {
    let nonce = opened::read_private(&state_dir.join(FILE), MAX).ok()?;
    Some(proof(std::str::from_utf8(&nonce).ok()?, at))
}

fn proof(nonce: &str, at: &Listen) -> String {
    Sha256::digest(format!("{at}\n{nonce}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A nonce in the state directory; removed when dropped.
struct Nonce {
    path: PathBuf,
    secret: String,
}

impl Nonce {
    fn leave(state_dir: &Path) -> io::Result<Nonce> {
        let nonce = Nonce { path: state_dir.join(FILE), secret: uuid::Uuid::new_v4().to_string() };
        durable::write(&nonce.path, nonce.secret.as_bytes())?;
        Ok(nonce)
    }
}

impl Drop for Nonce {
    fn drop(&mut self) {
        let _ = durable::remove(&self.path);
    }
}

/// The address of the connection, and the response.
fn ask(listen: &Listen) -> io::Result<(Listen, String)> {
    match listen {
        Listen::Tcp { host, port } => {
            let address = (host.as_str(), *port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
            let socket = TcpStream::connect_timeout(&address, LONG)?;
            socket.set_read_timeout(Some(LONG))?;
            Ok((listener::tcp_end(socket.peer_addr()?), exchange(socket)?))
        }
        Listen::Unix(path) => {
            let socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(LONG))?;
            Ok((listen.clone(), exchange(socket)?))
        }
    }
}

fn exchange(mut socket: impl Read + Write) -> io::Result<String> {
    socket.write_all(format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    socket.take(4 << 10).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
