//! A fake server that speaks enough NBD to send wrong replies. Must not correct them.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use tempfile::TempDir;

pub(super) const SIZE: u64 = 1 << 20;
pub(super) const CONTEXT: u32 = 5;

/// What the server offers in the handshake.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub structured: bool,
    pub allocation: bool,
    /// `[min, preferred, max]` block sizes.
    pub blocks: Option<[u32; 3]>,
    pub flags: u16,
    pub size: u64,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { structured: true, allocation: true, blocks: None, flags: 1, size: SIZE }
    }
}

/// A received request.
pub(super) struct Request {
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

/// A server on its own socket; its threads end with the connections.
pub(super) struct Fake {
    pub socket: PathBuf,
    _dir: TempDir,
}

impl Fake {
    pub fn raw(serve: impl Fn(UnixStream) + Send + Sync + 'static) -> Fake {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Fake { socket, _dir: dir }
    }

    /// Negotiates with `terms` and replies to each request with the bytes of `answer`. No bytes close the connection.
    pub fn new(terms: Terms, answer: impl Fn(Request) -> Vec<u8> + Send + Sync + 'static) -> Fake {
        Fake::raw(move |mut stream| {
            // An error means that the client has disconnected, which ends this thread.
            let _ = negotiate(&mut stream, terms).and_then(|()| {
                loop {
                    let request = request(&mut stream)?;
                    let bytes = answer(request);
                    if bytes.is_empty() {
                        return Ok(());
                    }
                    stream.write_all(&bytes)?;
                }
            });
        })
    }
}

fn bytes<const N: usize>(stream: &mut UnixStream) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn negotiate(stream: &mut UnixStream, terms: Terms) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    bytes::<4>(stream)?;
    loop {
        bytes::<8>(stream)?;
        let option = u32::from_be_bytes(bytes(stream)?);
        let length = u32::from_be_bytes(bytes(stream)?);
        std::io::copy(&mut stream.take(length.into()), &mut std::io::sink())?;
        let mut reply = |kind: u32, data: &[u8]| {
            let length = data.len() as u32;
            let head = [&0x3e889045565a9u64.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes()].concat();
            stream.write_all(&[&head[..], &length.to_be_bytes(), data].concat())
        };
        const UNSUPPORTED: u32 = (1 << 31) + 1;
        match option {
            8 if terms.structured => reply(1, &[])?,
            10 if terms.allocation => {
                reply(4, &[&CONTEXT.to_be_bytes()[..], b"base:allocation"].concat())?;
                reply(1, &[])?;
            }
            7 => {
                reply(3, &[&[0, 0][..], &terms.size.to_be_bytes(), &terms.flags.to_be_bytes()].concat())?;
                if let Some(blocks) = terms.blocks {
                    reply(3, &[&[0, 3][..], &blocks.map(u32::to_be_bytes).concat()].concat())?;
                }
                reply(1, &[])?;
                return Ok(());
            }
            _ => reply(UNSUPPORTED, b"no")?,
        }
    }
}

fn request(stream: &mut UnixStream) -> std::io::Result<Request> {
    bytes::<6>(stream)?;
    Ok(Request {
        command: u16::from_be_bytes(bytes(stream)?),
        cookie: u64::from_be_bytes(bytes(stream)?),
        offset: u64::from_be_bytes(bytes(stream)?),
        length: u32::from_be_bytes(bytes(stream)?),
    })
}

/// A simple reply.
pub(super) fn simple(errno: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
    [&0x67446698u32.to_be_bytes()[..], &errno.to_be_bytes(), &cookie.to_be_bytes(), data].concat()
}

/// A chunk of a structured reply.
pub(super) fn chunk(last: bool, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let head = [&0x668e33efu32.to_be_bytes()[..], &u16::from(last).to_be_bytes(), &kind.to_be_bytes()].concat();
    [&head[..], &cookie.to_be_bytes(), &(payload.len() as u32).to_be_bytes(), payload].concat()
}

/// A chunk of data.
pub(super) fn data(last: bool, cookie: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(last, 1, cookie, &[&offset.to_be_bytes()[..], bytes].concat())
}

/// A chunk of zeros.
pub(super) fn hole(last: bool, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    chunk(last, 2, cookie, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat())
}

/// A chunk of block status.
pub(super) fn status(context: u32, cookie: u64, blocks: &[(u32, u32)]) -> Vec<u8> {
    let list: Vec<u8> =
        blocks.iter().flat_map(|(length, flags)| [length.to_be_bytes(), flags.to_be_bytes()].concat()).collect();
    chunk(true, 5, cookie, &[&context.to_be_bytes()[..], &list].concat())
}
