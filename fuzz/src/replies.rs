//! Owns: the entry for what an NBD server answers. Must not: speak NBD.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use kvmbackup::nbd::{Client, Error};

use super::folder;

/// What the server says on every connection.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// All that a server says, whatever it is asked.
pub fn nbd(data: &[u8]) {
    // More would have to wait in the socket for a client that waits itself.
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

/// A server that says it all at once, and then listens until the client goes.
fn server() -> &'static PathBuf {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let socket = folder().join("nbd");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let answer = ANSWER.lock().unwrap().clone();
                thread::spawn(move || {
                    // A client that has had enough is what a fuzzer looks for all the time.
                    let _ = stream.write_all(&answer).and_then(|()| stream.shutdown(Shutdown::Write));
                    let _ = stream.read_to_end(&mut Vec::new());
                });
            }
        });
        socket
    })
}
