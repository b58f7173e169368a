//! Owns: asking a server which parts of an export hold data. Must not: read them.

use super::Error;
use super::handshake::Export;
use super::reply::{self, Body};
use super::wire::Wire;
use crate::model::Extent;

/// The most bytes of the disk that one request asks about: what 32 bits hold, in whole blocks of any size allowed.
const SPAN: u64 = (1 << 32) - (1 << 16);
/// The most extents that are kept apart, so that they need at most 128 MiB; from there on the rest counts as data.
const MAX_EXTENTS: usize = 1 << 23;
/// The most bytes of block status in one reply. QEMU stops at 1 MiB.
const MAX_STATUS: u32 = 16 << 20;
/// Bytes of one descriptor: a length and flags.
const DESCRIPTOR: u32 = 8;
/// The flag of blocks that read as zeros. A hole without it may read as anything, so it counts as data.
const STATE_ZERO: u32 = 1 << 1;

/// The data extents of the whole export, sorted and merged.
pub(super) fn all(wire: &mut Wire, export: &Export) -> Result<Vec<Extent>, Error> {
    let mut extents = Extents(Vec::new());
    let Some(context) = export.allocation else {
        extents.push(0, export.size);
        return Ok(extents.0);
    };
    let mut offset = 0;
    while offset < export.size {
        let length = SPAN.min(export.size - offset) as u32;
        // The offset is unique in the connection's requests, so it can tell them apart.
        reply::request(wire, 0, reply::BLOCK_STATUS, offset, (offset, length))?;
        offset = receive(wire, context, offset, length, &mut extents)?;
    }
    Ok(extents.0)
}

/// Reads the reply to one request; gives the first byte it says nothing about.
fn receive(wire: &mut Wire, context: u32, offset: u64, length: u32, extents: &mut Extents) -> Result<u64, Error> {
    let mut known = offset;
    loop {
        let chunk = reply::next(wire)?;
        if chunk.cookie != offset {
            return Err(wire.protocol("a reply matches no request"));
        }
        match chunk.body {
            Body::Status { context: id, length: bytes } if id == context && known == offset => {
                known = descriptors(wire, bytes, offset, length, extents)?;
            }
            Body::None => {}
            Body::Error { source, message } => {
                let socket = wire.socket().to_owned();
                return Err(Error::Request { socket, what: "map", offset, length: length.into(), message, source });
            }
            _ => return Err(wire.protocol("a reply to a block status request is of another kind")),
        }
        if chunk.last && known > offset {
            return Ok(known);
        } else if chunk.last {
            return Err(wire.protocol("a reply has no block status"));
        }
    }
}

fn descriptors(wire: &mut Wire, bytes: u32, offset: u64, length: u32, extents: &mut Extents) -> Result<u64, Error> {
    if !bytes.is_multiple_of(DESCRIPTOR) || bytes > MAX_STATUS {
        return Err(wire.protocol("block status has a wrong length"));
    }
    let end = offset + u64::from(length);
    let mut at = offset;
    let mut buffer = vec![0; bytes.min(1 << 16) as usize];
    let mut left = bytes as usize;
    while left > 0 {
        let piece = left.min(buffer.len());
        wire.read(&mut buffer[..piece])?;
        left -= piece;
        for descriptor in buffer[..piece].as_chunks::<{ DESCRIPTOR as usize }>().0 {
            let [l0, l1, l2, l3, f0, f1, f2, f3] = *descriptor;
            let (length, flags) = (u32::from_be_bytes([l0, l1, l2, l3]), u32::from_be_bytes([f0, f1, f2, f3]));
            if length == 0 || at >= end {
                return Err(wire.protocol("block status is empty or goes beyond what was asked"));
            }
            // Only the last may reach further than was asked for; what it says there is asked again.
            let next = (at + u64::from(length)).min(end);
            if flags & STATE_ZERO == 0 {
                extents.push(at, next);
            }
            at = next;
        }
    }
    Ok(at)
}

struct Extents(Vec<Extent>);

impl Extents {
    /// Adds data up to `end`, behind all that is there.
    fn push(&mut self, offset: u64, end: u64) {
        let full = self.0.len() == MAX_EXTENTS;
        match self.0.last_mut() {
            Some(last) if last.end() == offset || full => last.length = end - last.offset,
            _ if end > offset => self.0.push(Extent { offset, length: end - offset }),
            _ => {}
        }
    }
}
