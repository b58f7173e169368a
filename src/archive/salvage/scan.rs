//! Owns: the frames of a damaged file, found by their own marks. Must not: know where they lie in the tar stream.

use std::io;

use zstd::zstd_safe;

use super::super::codec::Unpacker;
use super::super::kind::{Kind, ZSTD};
use super::super::table::{self, Entry, le};
use super::super::{Error, MAX_PIECE, MAX_PIECES, gzip};
use crate::sys::patient_file::PatientFile;
use crate::sys::signals::Cancel;

/// Bytes of the file that are looked at together: more than a frame has.
const MOST: usize = MAX_PIECE + MAX_PIECE / 16;
/// Bytes that a disk reads or does not read together.
const SECTOR: usize = 4096;
/// Bytes that are asked for at once while it reads.
const CHUNK: usize = 1 << 20;

/// Bytes of the next frame that are looked at with a frame.
const SLACK: usize = 64;
/// Bytes of a zstd block, at most.
const MAX_BLOCK: usize = 128 << 10;
/// The budget of bytes decoded or skipped without finding a frame: a constant, plus this many per byte of the file. Accidental
/// damage uses a fraction of it.
const SPARE: u64 = if cfg!(test) { 4 << 20 } else { 256 << 20 };
const SPARE_PER_BYTE: u64 = 8;

/// A stretch of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A frame that its checksum vouches for.
    Frame(u64, Entry),
    /// So many bytes that are no complete frame; by the head of a damaged one, it held so many bytes.
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

/// The cost of candidates that turned out not to be frames, in bytes decoded or scanned again.
#[derive(Debug, Default)]
struct Effort {
    spent: u64,
    /// The end of the last candidate.
    reached: u64,
}

impl Effort {
    /// Records a candidate that was followed to `until` and is no frame. Only a candidate inside another one costs extra.
    fn add(&mut self, at: u64, until: u64, cost: u64) {
        if at < self.reached {
            self.spent = self.spent.saturating_add(cost);
        }
        self.reached = self.reached.max(until);
    }

    /// Where to continue after such a candidate: inside it, as long as the budget lasts.
    fn next(&self, at: u64) -> u64 {
        let is_spent = self.spent > SPARE.saturating_add(at.saturating_mul(SPARE_PER_BYTE));
        if is_spent { self.reached.max(at + 1) } else { at + 1 }
    }
}

/// Everything in the file, in order. A file that hangs is an error: what lies behind is not lost. So is a signal.
pub fn scan(file: &PatientFile, length: u64, kind: Kind, cancel: &Cancel) -> Result<Vec<Found>, Error> {
    scan_with(file, length, kind, cancel, &mut Effort::default())
}

fn scan_with(
    file: &PatientFile,
    length: u64,
    kind: Kind,
    cancel: &Cancel,
    effort: &mut Effort,
) -> Result<Vec<Found>, Error> {
    let mut unpacker = Unpacker::new().map_err(|source| Error::Read { offset: 0, source })?;
    let (mut found, mut scratch) = (Vec::new(), Vec::new());
    let mut is_good = |bytes: &[u8], entry: Entry| {
        unpacker.unpack(kind, entry, &bytes[..entry.packed as usize], &mut scratch).is_ok()
    };
    let mut search = Search { window: Window { file, length, start: 0, bytes: Vec::new() }, kind, cancel, effort };
    let mut at = 0;
    while at < length && search.goes_on().is_ok() {
        // More than any archive has.
        if found.len() >= MAX_PIECES {
            found.push(Found::Gap(at, length - at, None));
            break;
        }
        let bytes = search.window.at(at);
        if table::starts(kind, bytes) {
            break;
        }
        match entry(kind, bytes) {
            Ok(entry) if is_good(bytes, entry) => {
                found.push(Found::Frame(at, entry));
                at += u64::from(entry.packed);
            }
            known => {
                let held = held(kind, bytes).or(known.ok().map(|entry| entry.unpacked));
                let next = match known {
                    // The frame's own lengths lead to a neighbour: nothing inside of it is one.
                    Ok(entry) if is_neighbour(kind, &bytes[entry.packed as usize..]) => at + u64::from(entry.packed),
                    _ => search.next_frame(at, &mut is_good),
                };
                found.push(Found::Gap(at, next - at, held));
                at = next;
            }
        }
    }
    // With zeros for what a hanging file did not tell, this came to its end soon.
    search.goes_on().map_err(|source| Error::Read { offset: at, source })?;
    Ok(found)
}

struct Search<'a> {
    window: Window<'a>,
    kind: Kind,
    cancel: &'a Cancel,
    effort: &'a mut Effort,
}

impl Search<'_> {
    fn goes_on(&self) -> io::Result<()> {
        match self.cancel.signal() {
            Some(_) => Err(io::Error::other("stopped")),
            None => self.window.file.expect_answers(),
        }
    }

    /// The next place at or behind `from` where a whole frame, or the table, begins.
    fn next_frame(&mut self, from: u64, is_good: &mut impl FnMut(&[u8], Entry) -> bool) -> u64 {
        let kind = self.kind;
        let mut at = from;
        while at < self.window.length && self.goes_on().is_ok() {
            let bytes = self.window.at(at);
            let Some(step) = (0..bytes.len()).find(|&step| is_mark(kind, &bytes[step..])) else {
                // A mark may lie across the end of what was looked at.
                let looked_at = bytes.len().saturating_sub(gzip::HEADER).max(1);
                at += looked_at as u64;
                continue;
            };
            at += step as u64;
            let bytes = self.window.at(at);
            if table::starts(kind, bytes) {
                return at;
            }
            let (until, cost) = match entry(kind, bytes) {
                Ok(entry) if is_good(bytes, entry) => return at,
                Ok(entry) => (entry.packed as usize, u64::from(entry.packed) + u64::from(entry.unpacked)),
                Err(followed) => (followed, followed as u64),
            };
            self.effort.add(at, at + until as u64, cost);
            at = self.effort.next(at);
        }
        self.window.length
    }
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

/// The same at the end of the window, where only the first few bytes of a table may be visible.
fn is_neighbour(kind: Kind, bytes: &[u8]) -> bool {
    is_mark(kind, bytes) || table::may_start(kind, bytes)
}

/// What the head of a frame says of its contents' length.
fn held(kind: Kind, bytes: &[u8]) -> Option<u32> {
    let held = match kind {
        Kind::Zstd => zstd_safe::get_frame_content_size(bytes).ok()??,
        _ => return None,
    };
    u32::try_from(held).ok().filter(|&held| held > 0 && held as usize <= MAX_PIECE)
}

/// The frame that begins here, by its own header, or the number of bytes that made sense. Its contents are not checked.
fn entry(kind: Kind, bytes: &[u8]) -> Result<Entry, usize> {
    let (packed, unpacked, trailer) = match kind {
        Kind::Zstd => {
            let held = held(kind, bytes).ok_or(0_usize)?;
            (zstd_length(bytes)?, Some(held), 4)
        }
        Kind::Gzip if gzip::is_ours(bytes) => {
            let packed = le(&bytes[gzip::HEADER - 4..]) as usize;
            let trailer = packed.checked_sub(gzip::TRAILER).and_then(|start| bytes.get(start..packed));
            (packed, trailer.map(|trailer| le(&trailer[4..])), gzip::TRAILER)
        }
        _ => return Err(0),
    };
    let check = packed.checked_sub(trailer).and_then(|start| bytes.get(start..packed)).map(le);
    let sane = |unpacked: &u32| packed <= MOST && (1..=MAX_PIECE as u32).contains(unpacked);
    match (u32::try_from(packed), unpacked.filter(sane), check) {
        (Ok(packed), Some(unpacked), Some(check)) => Ok(Entry { packed, unpacked, check }),
        _ => Err(packed.min(bytes.len())),
    }
}

/// The length of one of our zstd frames, computed from its block headers (RFC 8878, 3.1.1), or the number of bytes that made sense.
fn zstd_length(bytes: &[u8]) -> Result<usize, usize> {
    let descriptor = bytes.strip_prefix(&ZSTD).and_then(<[u8]>::first).ok_or(0_usize)?;
    let is_single = descriptor & 0b10_0000 != 0;
    let window = usize::from(!is_single);
    let size = match descriptor >> 6 {
        0 => usize::from(is_single),
        power => 1 << power,
    };
    let mut at = ZSTD.len() + 1 + window + size;
    loop {
        let head = bytes.get(at..at + 3).map(le).ok_or(at.min(bytes.len()))?;
        let length = (head >> 3) as usize;
        let stored = match (head >> 1) & 0b11 {
            0 | 2 => length,
            1 => 1,
            _ => return Err(at),
        };
        if length > MAX_BLOCK {
            return Err(at);
        }
        at += 3 + stored;
        if head & 1 == 1 {
            break;
        }
    }
    if at + 4 <= bytes.len() { Ok(at + 4) } else { Err(bytes.len()) }
}

/// The file, a few frames at a time.
struct Window<'a> {
    file: &'a PatientFile,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes from an offset on, at least a frame's and the head of the next one's where the file has them; what the disk does not read is zeros.
    fn at(&mut self, offset: u64) -> &[u8] {
        let offset = offset.min(self.length);
        let has = self.start <= offset && offset <= self.end();
        let wanted = (self.length - offset).min((MOST + SLACK) as u64);
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
