//! Owns: the order of an archive: members, their digests, where pieces are cut. Must not: compress or write by itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::SystemTime;

use super::pipeline::Pipeline;
use super::sums::{self, Sums};
use super::{Error, MANIFEST, PIECE, SUMS, header, names};
use crate::model::{Codec, Hasher};
use crate::sys::buffer::Buffer;
use crate::sys::patience::Patience;

/// Bytes that are hashed and then copied: what a core's own cache holds.
const STEP: usize = 128 << 10;

/// Writes an archive. Dropped unfinished, it stops its threads and leaves a torso for its caller to remove.
pub struct Writer {
    pipeline: Pipeline,
    /// The piece being filled; made when the first byte comes.
    piece: Option<Buffer>,
    current: Option<Current>,
    sums: Sums,
    /// `SHA256SUMS` so far, in the order of the members.
    lines: String,
    /// Modification time of all members, in seconds since 1970.
    time: u64,
}

/// The member that is being written.
struct Current {
    name: String,
    length: u64,
    left: u64,
    hasher: Hasher,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Length of the file.
    pub bytes: u64,
    /// The digest of every member but `SHA256SUMS`.
    pub sums: Sums,
}

impl Writer {
    /// Begins an archive in an empty file; up to `threads` compress, beside one that writes.
    ///
    /// Takes at most 160 MiB: `2 * threads + 3` buffers of 4 MiB and the codec's contexts. Where a level needs more, fewer
    /// threads compress (16 at zstd's level 3, 2 at level 19).
    pub fn new(file: File, codec: Codec, threads: usize) -> Result<Writer, Error> {
        Writer::patient(file, codec, threads, &Patience::default())
    }

    /// The same, and fails when the file takes nothing for longer than `patience` has. Neither an error nor the end of the
    /// writer waits any longer then.
    pub fn patient(file: File, codec: Codec, threads: usize, patience: &Patience) -> Result<Writer, Error> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let pipeline = Pipeline::new(file, codec, threads, patience)?;
        Ok(Writer { pipeline, piece: None, current: None, sums: BTreeMap::new(), lines: String::new(), time })
    }

    /// Begins a member of exactly `length` bytes; the one before must be whole, and the first is the manifest.
    pub fn member(&mut self, name: &str, length: u64) -> Result<(), Error> {
        self.close()?;
        let misuse = |what| Err(Error::Misuse { member: name.to_owned(), what });
        names::check(name)?;
        if self.sums.is_empty() != (name == MANIFEST) {
            return misuse("manifest.json must be the first member, once");
        }
        if name == SUMS {
            return misuse("it is reserved");
        }
        if self.sums.contains_key(name) {
            return Err(Error::Name { name: name.to_owned(), what: "it occurs twice" });
        }
        // The manifest has a piece of its own, so that listing decodes little and reads nothing of the disks.
        if self.sums.len() == 1 {
            self.cut()?;
        }
        self.begin(name, length)
    }

    /// The next bytes of the current member. An error of an earlier write, a full disk say, may come now.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(current) = &mut self.current else {
            return Err(Error::Misuse { member: String::new(), what: "bytes without a member" });
        };
        match current.left.checked_sub(bytes.len() as u64) {
            Some(left) => current.left = left,
            None => return Err(Error::Misuse { member: current.name.clone(), what: "more bytes than announced" }),
        }
        for step in bytes.chunks(STEP) {
            if let Some(current) = &mut self.current {
                current.hasher.update(step);
            }
            self.put(step)?;
        }
        Ok(())
    }

    /// A whole member.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.member(name, bytes.len() as u64)?;
        self.write(bytes)
    }

    /// Bytes in the file so far.
    pub fn written(&self) -> u64 {
        self.pipeline.written()
    }

    /// Adds `SHA256SUMS`, ends the tar stream, writes the seek table and makes the file's contents durable. The name of
    /// the file and its folder are the caller's.
    pub fn finish(mut self) -> Result<Written, Error> {
        self.close()?;
        if self.sums.is_empty() {
            return Err(Error::Missing { member: MANIFEST.to_owned() });
        }
        self.cut()?;
        let lines = std::mem::take(&mut self.lines);
        let sums = std::mem::take(&mut self.sums);
        self.put(&header::encode(SUMS, lines.len() as u64, self.time))?;
        self.put(lines.as_bytes())?;
        // The padding of the last member, and the two blocks that end a tar stream.
        self.zeros(header::padding(lines.len() as u64) + 2 * header::BLOCK)?;
        self.cut()?;
        Ok(Written { bytes: self.pipeline.finish()?, sums })
    }

    fn begin(&mut self, name: &str, length: u64) -> Result<(), Error> {
        self.put(&header::encode(name, length, self.time))?;
        self.current = Some(Current { name: name.to_owned(), length, left: length, hasher: Hasher::new() });
        Ok(())
    }

    /// Ends the current member.
    fn close(&mut self) -> Result<(), Error> {
        let Some(Current { name, length, left, hasher }) = self.current.take() else { return Ok(()) };
        if left > 0 {
            return Err(Error::Misuse { member: name, what: "fewer bytes than announced" });
        }
        self.zeros(header::padding(length))?;
        let digest = hasher.finish();
        self.lines.push_str(&sums::line(&name, &digest));
        self.sums.insert(name, digest);
        Ok(())
    }

    /// Appends to the tar stream.
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let mut piece = match self.piece.take() {
                Some(piece) => piece,
                None => self.pipeline.buffer()?,
            };
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - piece.len()));
            piece.append(now);
            bytes = later;
            let full = piece.len() == PIECE;
            self.piece = Some(piece);
            if full {
                self.cut()?;
            }
        }
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> Result<(), Error> {
        // At most three blocks.
        self.put(&vec![0; count as usize])
    }

    /// Ends the piece, if there is anything in it.
    fn cut(&mut self) -> Result<(), Error> {
        self.piece.take().map_or(Ok(()), |piece| self.pipeline.push(piece))
    }
}
