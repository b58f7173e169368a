//! Sends requests and reads the headers of simple and structured replies. Must not track requests.

use std::io;

use super::Error;
use super::wire::Wire;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// Commands.
pub(super) const READ: u16 = 0;
pub(super) const DISCONNECT: u16 = 2;
pub(super) const BLOCK_STATUS: u16 = 7;
/// The flag for a read with an unfragmented reply.
pub(super) const DF: u16 = 1 << 2;

/// The flag on the last chunk of a reply.
const DONE: u16 = 1 << 0;

const NONE: u16 = 0;
const OFFSET_DATA: u16 = 1;
const OFFSET_HOLE: u16 = 2;
const STATUS: u16 = 5;
const ERROR: u16 = (1 << 15) + 1;
const ERROR_OFFSET: u16 = (1 << 15) + 2;
/// Set in the kind of every error chunk.
const ANY_ERROR: u16 = 1 << 15;

/// The protocol's limit for messages, in bytes.
const MAX_MESSAGE: u32 = 4096;

/// One simple reply, or one chunk of a structured one.
pub(super) struct Reply {
    /// Identifies the request.
    pub cookie: u64,
    /// No further chunk follows for this request.
    pub last: bool,
    pub body: Body,
}

/// The header of a reply. The caller must check the server's lengths against the request before reading.
pub(super) enum Body {
    /// Success. After a read request, all its bytes follow on the wire.
    Simple,
    /// An empty chunk.
    None,
    /// `length` bytes of the disk follow on the wire.
    Data { offset: u64, length: u32 },
    /// `length` bytes of the disk are zeros.
    Hole { offset: u64, length: u32 },
    /// `length` bytes of block status follow on the wire.
    Status { context: u32, length: u32 },
    /// The request failed.
    Error { source: io::Error, message: String },
}

/// Sends a request. The range is empty for commands without one.
pub(super) fn request(
    wire: &mut Wire,
    flags: u16,
    command: u16,
    cookie: u64,
    (at, length): (u64, u32),
) -> Result<(), Error> {
    let mut bytes = Vec::with_capacity(28);
    bytes.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&at.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    wire.write(&bytes)
}

/// Reads the header of the next reply, but not the bytes that follow it.
pub(super) fn next(wire: &mut Wire) -> Result<Reply, Error> {
    match wire.u32()? {
        SIMPLE_MAGIC => {
            let (errno, cookie) = (wire.u32()?, wire.u64()?);
            let body = match errno {
                0 => Body::Simple,
                _ => Body::Error { source: os_error(errno), message: String::new() },
            };
            Ok(Reply { cookie, last: true, body })
        }
        STRUCTURED_MAGIC => {
            let (flags, kind, cookie, length) = (wire.u16()?, wire.u16()?, wire.u64()?, wire.u32()?);
            Ok(Reply { cookie, last: flags & DONE != 0, body: chunk(wire, kind, length)? })
        }
        _ => Err(wire.protocol("a reply has a wrong magic number")),
    }
}

fn chunk(wire: &mut Wire, kind: u16, length: u32) -> Result<Body, Error> {
    match (kind, length) {
        (NONE, 0) => Ok(Body::None),
        (OFFSET_DATA, 9..) => Ok(Body::Data { offset: wire.u64()?, length: length - 8 }),
        (OFFSET_HOLE, 12) => Ok(Body::Hole { offset: wire.u64()?, length: wire.u32()? }),
        (STATUS, 12..) => Ok(Body::Status { context: wire.u32()?, length: length - 4 }),
        (kind, 6..) if kind & ANY_ERROR != 0 => error(wire, kind, length - 6),
        _ => Err(wire.protocol("a reply has an unknown kind or a wrong length")),
    }
}

/// Reads an error chunk. `rest` is its length without the error number and the message length.
fn error(wire: &mut Wire, kind: u16, rest: u32) -> Result<Body, Error> {
    let source = os_error(wire.u32()?);
    let message_length = u32::from(wire.u16()?);
    let known = match kind {
        ERROR => rest == message_length,
        ERROR_OFFSET => rest == message_length + 8,
        _ => rest >= message_length,
    };
    if !known || rest > MAX_MESSAGE + 64 {
        return Err(wire.protocol("an error has a wrong length"));
    }
    let message = wire.text(message_length as usize)?;
    wire.text((rest - message_length) as usize)?;
    Ok(Body::Error { source, message })
}

/// NBD's error numbers are those of Linux.
fn os_error(errno: u32) -> io::Error {
    io::Error::from_raw_os_error(errno.try_into().unwrap_or(0))
}
