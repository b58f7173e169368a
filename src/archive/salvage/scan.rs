//! Owns: the frames of a damaged file, found by their own marks. Must not: know where they lie in the tar stream.

use zstd::zstd_safe;

use super::super::codec::Unpacker;
use super::super::kind::{Kind, ZSTD};
use super::super::table::{self, Entry, le};
use super::super::{Error, MAX_PIECE, gzip};
use crate::sys::patient_file::PatientFile;

/// Bytes of the file that are looked at together: more than a frame has.
const MOST: usize = MAX_PIECE + MAX_PIECE / 16;
/// Bytes that a disk reads or does not read together.
const SECTOR: usize = 4096;
/// Bytes that are asked for at once while it reads.
const CHUNK: usize = 1 << 20;

/// A stretch of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A frame that its checksum vouches for.
    Frame(u64, Entry),
    /// So many bytes that are no whole frame; by the head of a damaged one, it held so many bytes.
    Gap(u64, u64, Option<u32>),
}

impl Found {
    /// The byte behind it.
    pub fn end(&self) -> u64 {
        match self {
            Found::Frame(offset, entry) => offset + u64::from(entry.packed),
            Found::Gap(offset, length, _) => offset + length,
        }
    }
}

/// Everything in the file, in order. A file that hangs is an error: what lies behind is not lost.
pub fn scan(file: &PatientFile, length: u64, kind: Kind) -> Result<Vec<Found>, Error> {
    let mut window = Window { file, length, start: 0, bytes: Vec::new() };
    let mut unpacker = Unpacker::new().map_err(|source| Error::Read { offset: 0, source })?;
    let (mut found, mut scratch) = (Vec::new(), Vec::new());
    let mut is_good = |bytes: &[u8], entry: Entry| {
        unpacker.unpack(kind, entry, &bytes[..entry.packed as usize], &mut scratch).is_ok()
    };
    let mut at = 0;
    while at < length && file.expect_answers().is_ok() {
        let bytes = window.at(at);
        if table::starts(kind, bytes) {
            break;
        }
        match entry(kind, bytes) {
            Some(entry) if is_good(bytes, entry) => {
                found.push(Found::Frame(at, entry));
                at += u64::from(entry.packed);
            }
            known => {
                let held = held(kind, bytes).or(known.map(|entry| entry.unpacked));
                let next = match known {
                    // The frame's own lengths lead to a neighbour: nothing inside of it is one.
                    Some(entry) if is_mark(kind, window.at(at + u64::from(entry.packed))) => {
                        at + u64::from(entry.packed)
                    }
                    _ => next_frame(&mut window, kind, at, &mut is_good),
                };
                found.push(Found::Gap(at, next - at, held));
                at = next;
            }
        }
    }
    // With zeros for what a hanging file did not tell, this came to its end soon.
    file.expect_answers().map_err(|source| Error::Read { offset: at, source })?;
    Ok(found)
}

/// The next place at or behind `from` where a whole frame, or the table, begins.
fn next_frame(window: &mut Window<'_>, kind: Kind, from: u64, is_good: &mut impl FnMut(&[u8], Entry) -> bool) -> u64 {
    let mut at = from;
    while at < window.length && window.file.expect_answers().is_ok() {
        let bytes = window.at(at);
        let Some(step) = (0..bytes.len()).find(|&step| is_mark(kind, &bytes[step..])) else {
            // A mark may lie across the end of what was looked at.
            let looked_at = bytes.len().saturating_sub(gzip::HEADER).max(1);
            at += looked_at as u64;
            continue;
        };
        at += step as u64;
        let bytes = window.at(at);
        if table::starts(kind, bytes) || entry(kind, bytes).is_some_and(|entry| is_good(bytes, entry)) {
            return at;
        }
        at += 1;
    }
    window.length
}

/// Whether a frame or the table may begin so.
fn is_mark(kind: Kind, bytes: &[u8]) -> bool {
    let frame = match kind {
        Kind::Zstd => bytes.starts_with(&ZSTD),
        Kind::Gzip => gzip::is_ours(bytes),
        Kind::None => false,
    };
    frame || bytes.is_empty() || table::starts(kind, bytes)
}

/// What the head of a frame says of its contents' length.
fn held(kind: Kind, bytes: &[u8]) -> Option<u32> {
    let held = match kind {
        Kind::Zstd => zstd_safe::get_frame_content_size(bytes).ok()??,
        _ => return None,
    };
    u32::try_from(held).ok().filter(|&held| held > 0 && held as usize <= MAX_PIECE)
}

/// The frame that begins here, as its own bytes have it. Its contents are not looked at.
fn entry(kind: Kind, bytes: &[u8]) -> Option<Entry> {
    let (packed, unpacked) = match kind {
        Kind::Zstd => (zstd_safe::find_frame_compressed_size(bytes).ok()?, held(kind, bytes)?),
        Kind::Gzip if gzip::is_ours(bytes) => {
            let packed = le(&bytes[gzip::HEADER - 4..]) as usize;
            let trailer = bytes.get(packed.checked_sub(gzip::TRAILER)?..packed)?;
            (packed, le(&trailer[4..]))
        }
        _ => return None,
    };
    let trailer = if kind == Kind::Gzip { gzip::TRAILER } else { 4 };
    let check = le(bytes.get(packed.checked_sub(trailer)?..packed)?);
    let is_sane = packed <= MOST && unpacked > 0 && unpacked as usize <= MAX_PIECE;
    is_sane.then(|| Some(Entry { packed: u32::try_from(packed).ok()?, unpacked, check }))?
}

/// The file, a few frames at a time.
struct Window<'a> {
    file: &'a PatientFile,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes from an offset on, at least a frame's where the file has them; what the disk does not read is zeros.
    fn at(&mut self, offset: u64) -> &[u8] {
        let offset = offset.min(self.length);
        let has = self.start <= offset && offset <= self.end();
        let wanted = (self.length - offset).min(MOST as u64);
        if !has || self.end() - offset < wanted {
            let kept = if has { self.bytes.split_off((offset - self.start) as usize) } else { Vec::new() };
            (self.start, self.bytes) = (offset, kept);
            let from = self.end();
            // At most twice `MOST`.
            let more = (self.length - from).min(2 * MOST as u64 - self.bytes.len() as u64) as usize;
            read_what_can_be(self.file, &mut self.bytes, more, from);
        }
        &self.bytes[(offset - self.start) as usize..]
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// Appends so many bytes of the file, read sector by sector where a disk fails; what is not read is zeros.
fn read_what_can_be(file: &PatientFile, out: &mut Vec<u8>, length: usize, offset: u64) {
    let mut bytes = Vec::new();
    let mut append = |out: &mut Vec<u8>, at: usize, length: usize| {
        let read = file.read_exact(&mut bytes, length, offset + at as u64).is_ok();
        if read {
            out.extend_from_slice(&bytes);
        }
        read
    };
    for at in (0..length).step_by(CHUNK) {
        let chunk = CHUNK.min(length - at);
        if append(out, at, chunk) {
            continue;
        }
        let end = at + chunk;
        for at in (at..end).step_by(SECTOR) {
            if !append(out, at, SECTOR.min(end - at)) {
                out.resize(out.len() + SECTOR.min(end - at), 0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
