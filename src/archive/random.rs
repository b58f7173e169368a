//! Owns: reading a member anywhere, with a bounded cache of decoded pieces. Must not: decode ahead.

use std::sync::{Arc, Mutex, PoisonError};

use super::stream::Pieces;
use super::{Archive, Error, Member};

/// Decoded pieces that are kept. They have about 4 MiB each.
const KEPT: usize = 8;

/// A member that is read at random. Each piece is checked by its frame's checksum; an uncompressed archive has none.
pub struct RandomReader {
    pieces: Arc<Pieces>,
    member: Member,
    /// The last used one is at the end.
    kept: Mutex<Vec<(usize, Arc<Vec<u8>>)>>,
}

impl Archive {
    /// A member's contents, to be read anywhere.
    pub fn at_random(&self, member: &Member) -> Result<RandomReader, Error> {
        self.check_range(member)?;
        Ok(RandomReader { pieces: self.pieces().clone(), member: member.clone(), kept: Mutex::default() })
    }
}

impl RandomReader {
    /// Bytes of the member.
    pub fn length(&self) -> u64 {
        self.member.length
    }

    /// Fills `out` with the bytes from `offset` on. A range that is not in the member is misuse.
    pub fn read_at(&self, offset: u64, mut out: &mut [u8]) -> Result<(), Error> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.member.length);
        if end.is_none() {
            return Err(Error::Misuse { member: self.member.name.clone(), what: "read outside its range" });
        }
        let mut at = self.member.offset + offset;
        while !out.is_empty() {
            let index = self.pieces.index_at(at);
            let piece = self.piece(index).map_err(|error| error.of(&self.member.name))?;
            // The piece holds the offset, so that this is less than its length.
            let from = (at - self.pieces.list()[index].stream_offset) as usize;
            let (now, later) = out.split_at_mut(out.len().min(piece.len() - from));
            now.copy_from_slice(&piece[from..from + now.len()]);
            at += now.len() as u64;
            out = later;
        }
        Ok(())
    }

    fn piece(&self, index: usize) -> Result<Arc<Vec<u8>>, Error> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| *known == index) {
            let found = kept.remove(at);
            let piece = found.1.clone();
            kept.push(found);
            return Ok(piece);
        }
        if kept.len() == KEPT {
            kept.remove(0);
        }
        drop(kept);
        let mut bytes = Vec::new();
        self.pieces.decode(index, &mut bytes)?;
        let piece = Arc::new(bytes);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((index, piece.clone()));
        Ok(piece)
    }
}
