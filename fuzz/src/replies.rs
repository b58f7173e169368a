//! Entry point for replies of an NBD server. Must not implement NBD.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use kvmbackup::nbd::{Client, Error};

use super::folder;

/// What the server sends on every connection.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Uses the bytes as everything that a server sends, regardless of the requests.
pub fn nbd(data: &[u8]) {
    // More could block in the socket while the client waits as well.
    *ANSWER.lock().unwrap() = data[..data.len().min(100_000)].to_vec();
    drop(ask());
}

fn ask() -> Result<(), Error> {
    let mut client = Client::connect(server(), "", Duration::from_secs(5))?;
    let size = client.size();
    let extents = client.extents()?;
    assert!(extents.windows(2).all(|pair| pair[0].end() < pair[1].offset));
    assert!(extents.iter().all(|extent| extent.length > 0 && extent.end() <= size));
    client.read(&extents, |_, _| Ok(()))
}

/// A server that sends all bytes at once and then reads until the client disconnects.
fn server() -> &'static PathBuf {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let socket = folder().join("nbd");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let answer = ANSWER.lock().unwrap().clone();
                thread::spawn(move || {
                    // Clients usually disconnect early because of an error, so ignore failed writes.
                    let _ = stream.write_all(&answer).and_then(|()| stream.shutdown(Shutdown::Write));
                    let _ = stream.read_to_end(&mut Vec::new());
                });
            }
        });
        socket
    })
}
