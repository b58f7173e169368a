//! Owns: a range of the tar stream as bytes in order, decoded in parallel ahead of its reader. Must not: understand tar.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::Error;
use super::codec::Unpacker;
use super::kind::Kind;
use super::table::Piece;
use crate::model::{Digest, Hasher};
use crate::sys::patient_file::PatientFile;

/// The pieces of an open archive.
pub(super) struct Pieces {
    file: Arc<PatientFile>,
    kind: Kind,
    list: Vec<Piece>,
    /// Idle contexts and buffers for compressed bytes.
    idle: Mutex<Vec<(Unpacker, Vec<u8>)>>,
}

impl Pieces {
    pub(super) fn new(file: Arc<PatientFile>, kind: Kind, list: Vec<Piece>) -> Pieces {
        Pieces { file, kind, list, idle: Mutex::default() }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn list(&self) -> &[Piece] {
        &self.list
    }

    /// Length of the tar stream.
    pub(super) fn stream_len(&self) -> u64 {
        self.list.last().map_or(0, |last| last.stream_offset + u64::from(last.entry.unpacked))
    }

    /// The piece that holds a byte of the tar stream.
    pub(super) fn index_at(&self, offset: u64) -> usize {
        self.list.partition_point(|piece| piece.stream_offset <= offset).saturating_sub(1)
    }

    /// Reads, decodes and checks one piece into `out`.
    pub(super) fn decode(&self, index: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(&Piece { file_offset: offset, entry, .. }) = self.list.get(index) else {
            return Err(Error::Table { what: "the tar stream is truncated" });
        };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut unpacker, mut packed) = match idle {
            Some(idle) => idle,
            None => (Unpacker::new().map_err(|source| Error::Read { offset, source })?, Vec::new()),
        };
        // The table's reader has checked that this is at most 17 MiB and lies within the file.
        let length = entry.packed as usize;
        self.file.read_exact(&mut packed, length, offset).map_err(|source| Error::Read { offset, source })?;
        unpacker.unpack(self.kind, entry, &packed, out).map_err(|what| Error::Frame { offset, what })?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((unpacker, packed));
        Ok(())
    }
}

/// Pieces in order, decoded ahead by a pool of threads; at most `threads + 2` are in memory.
pub(super) struct Ahead {
    pieces: Arc<Pieces>,
    pool: ThreadPool,
    /// The next piece to decode, and where to stop.
    next: usize,
    end: usize,
    depth: usize,
    queue: VecDeque<Receiver<Result<Vec<u8>, Error>>>,
}

impl Ahead {
    /// The pieces `from` to (not including) `end`; `threads` of at least 1 decode.
    pub(super) fn new(pieces: Arc<Pieces>, from: usize, end: usize, threads: usize) -> Result<Ahead, Error> {
        let threads = threads.max(1);
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.min(end.saturating_sub(from)).max(1))
            .thread_name(|_| "decode".to_owned())
            .panic_handler(|_| {})
            .build()
            .map_err(|source| Error::Threads { source })?;
        Ok(Ahead { pieces, pool, next: from, end, depth: threads + 2, queue: VecDeque::new() })
    }

    /// The next piece, or its damage; `None` after the last. `spare` is a buffer to use again.
    pub(super) fn next(&mut self, mut spare: Vec<u8>) -> Option<Result<Vec<u8>, Error>> {
        while self.queue.len() < self.depth && self.next < self.end {
            let (send, decoded) = mpsc::sync_channel(1);
            let (pieces, index, mut buffer) = (self.pieces.clone(), self.next, std::mem::take(&mut spare));
            self.pool.spawn(move || {
                let result = pieces.decode(index, &mut buffer).map(|()| buffer);
                // The receiver is gone when the reader was dropped.
                let _ = send.send(result);
            });
            self.queue.push_back(decoded);
            self.next += 1;
        }
        let offset = 0;
        let died = |_| Err(Error::Read { offset, source: io::Error::other("a decoding thread has ended") });
        self.queue.pop_front().map(|decoded| decoded.recv().unwrap_or_else(died))
    }
}

/// The contents of one member, in order. Every frame's checksum is checked before a byte of it is handed out; an
/// uncompressed archive has no frames, so there the member's SHA-256 is checked before its last bytes are.
pub struct MemberReader {
    name: String,
    ahead: Ahead,
    piece: Vec<u8>,
    /// The part of `piece` that is still to be handed out.
    at: usize,
    until: usize,
    /// Bytes of the piece before the member's first byte; used up by the first piece.
    skip: usize,
    /// Bytes of the member in pieces to come.
    left: u64,
    check: Option<(Hasher, Digest)>,
    failed: bool,
}

impl MemberReader {
    /// `offset` and `length` lie within the tar stream.
    pub(super) fn new(
        pieces: Arc<Pieces>,
        (name, offset, length): (&str, u64, u64),
        threads: usize,
        digest: Option<Digest>,
    ) -> Result<MemberReader, Error> {
        let from = pieces.index_at(offset);
        let end = if length == 0 { from } else { pieces.index_at(offset + length - 1) + 1 };
        let skip = pieces.list().get(from).map_or(0, |piece| offset - piece.stream_offset);
        Ok(MemberReader {
            name: name.to_owned(),
            ahead: Ahead::new(pieces, from, end, threads)?,
            piece: Vec::new(),
            at: 0,
            until: 0,
            // Less than a piece, because the piece holds the offset.
            skip: skip as usize,
            left: length,
            check: digest.map(|digest| (Hasher::new(), digest)),
            failed: false,
        })
    }

    /// Takes the next piece.
    fn advance(&mut self) -> Result<(), Error> {
        let spare = std::mem::take(&mut self.piece);
        (self.at, self.until) = (0, 0);
        let cut_off = || Err(Error::Table { what: "the tar stream is truncated" });
        let piece = self.ahead.next(spare).unwrap_or_else(cut_off)?;
        let at = std::mem::take(&mut self.skip);
        let until = at + self.left.min((piece.len() - at) as u64) as usize;
        self.left -= (until - at) as u64;
        if let Some((hasher, _)) = &mut self.check {
            hasher.update(&piece[at..until]);
        }
        if self.left == 0
            && let Some((hasher, digest)) = self.check.take()
            && hasher.finish() != digest
        {
            return Err(Error::Digest { member: self.name.clone() });
        }
        (self.piece, self.at, self.until) = (piece, at, until);
        Ok(())
    }
}

impl BufRead for MemberReader {
    /// An error holds an [`Error`] that names the member; after one, every further call fails too.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.failed {
            return Err(io::Error::other("the member is damaged, as reported before"));
        }
        if self.at == self.until && self.left > 0 {
            self.advance().map_err(|error| {
                self.failed = true;
                error.of(&self.name)
            })?;
        }
        Ok(&self.piece[self.at..self.until])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.until);
    }
}

impl Read for MemberReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Archive, PIECE, tests};
    use crate::model::Codec;

    #[test]
    fn two_more_pieces_than_threads_are_in_memory_and_none_behind_the_last() {
        let fixture = tests::archive(Codec::Zstd(1), &[("vda", 8 * PIECE)]);
        let archive = Archive::open(&fixture.path).unwrap();
        let last = archive.pieces().list().len() - 1;
        let mut ahead = Ahead::new(archive.pieces().clone(), 0, last, 1).unwrap();
        for index in 0..last {
            assert_eq!(
                ahead.next(Vec::new()).unwrap().unwrap().len() as u32,
                archive.pieces().list()[index].entry.unpacked
            );
            // One more is the one that was taken.
            assert_eq!(ahead.queue.len(), (last - index - 1).min(2), "{index}");
        }
        assert!(ahead.next(Vec::new()).is_none());
    }
}
