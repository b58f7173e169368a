//! Asks a server which parts of an export contain data, or changed. Must not read them.

use super::Error;
use super::handshake::{Context, Export};
use super::reply::{self, Body};
use super::wire::Wire;
use crate::model::Extent;

/// Bytes of the disk per request: the largest 32-bit length that is a multiple of every allowed block size.
const SPAN: u64 = (1 << 32) - (1 << 16);
/// Limits the memory for extents to 128 MiB. The rest of a disk with more extents counts as data.
const MAX_EXTENTS: usize = 1 << 23;
/// Limit for the block status in one reply, in bytes. QEMU sends at most 1 MiB.
const MAX_STATUS: u32 = 16 << 20;
/// Bytes of one descriptor: a length and flags.
const DESCRIPTOR: u32 = 8;
/// The flag for blocks that read as zeros. A hole without it has undefined contents, so it counts as data.
const STATE_ZERO: u32 = 1 << 1;
/// The flag for changed blocks.
const STATE_DIRTY: u32 = 1 << 0;

/// The extents of the whole export that contain data or changed, sorted and merged. Without block status, the whole export
/// counts.
pub(super) fn all(wire: &mut Wire, export: &Export, wanted: Context<'_>) -> Result<Vec<Extent>, Error> {
    let mut extents = Extents(Vec::new());
    let is_wanted = match wanted {
        Context::Allocation => |flags| flags & STATE_ZERO == 0,
        Context::Changed(_) => |flags| flags & STATE_DIRTY != 0,
    };
    let Some(context) = export.context else {
        extents.push(0, export.size);
        return Ok(extents.0);
    };
    let mut offset = 0;
    while offset < export.size {
        let length = SPAN.min(export.size - offset) as u32;
        // The offset is unique on the connection, so it identifies the request.
        reply::request(wire, 0, reply::BLOCK_STATUS, offset, (offset, length))?;
        offset = receive(wire, context, (offset, length), &is_wanted, &mut extents)?;
    }
    Ok(extents.0)
}

/// Reads the reply to one request and returns the first offset that it does not cover.
fn receive(
    wire: &mut Wire,
    context: u32,
    (offset, length): (u64, u32),
    is_wanted: &dyn Fn(u32) -> bool,
    extents: &mut Extents,
) -> Result<u64, Error> {
    let mut known = offset;
    loop {
        let chunk = reply::next(wire)?;
        if chunk.cookie != offset {
            return Err(wire.protocol("a reply matches no request"));
        }
        match chunk.body {
            Body::Status { context: id, length: bytes } if id == context && known == offset => {
                known = descriptors(wire, bytes, (offset, length), is_wanted, extents)?;
            }
            Body::None => {}
            Body::Error { source, message } => {
                let socket = wire.socket().to_owned();
                return Err(Error::Request { socket, what: "map", offset, length: length.into(), message, source });
            }
            _ => return Err(wire.protocol("a block status request got another kind of reply")),
        }
        if chunk.last && known > offset {
            return Ok(known);
        } else if chunk.last {
            return Err(wire.protocol("a reply has no block status"));
        }
    }
}

fn descriptors(
    wire: &mut Wire,
    bytes: u32,
    (offset, length): (u64, u32),
    is_wanted: &dyn Fn(u32) -> bool,
    extents: &mut Extents,
) -> Result<u64, Error> {
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
                return Err(wire.protocol("block status is empty or exceeds the request"));
            }
            // Only the last descriptor may exceed the requested range. The excess is cut off and requested again.
            let next = (at + u64::from(length)).min(end);
            if is_wanted(flags) {
                extents.push(at, next);
            }
            at = next;
        }
    }
    Ok(at)
}

struct Extents(Vec<Extent>);

impl Extents {
    /// Appends data from `offset` to `end`, after all existing extents.
    fn push(&mut self, offset: u64, end: u64) {
        let full = self.0.len() == MAX_EXTENTS;
        match self.0.last_mut() {
            Some(last) if last.end() == offset || full => last.length = end - last.offset,
            _ if end > offset => self.0.push(Extent { offset, length: end - offset }),
            _ => {}
        }
    }
}
