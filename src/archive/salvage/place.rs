//! Owns: where the frames of a damaged archive lie in the tar stream, and how long what is lost between them was. Must not:
//! understand tar.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::super::kind::Kind;
use super::super::stream::Pieces;
use super::super::table::{self, Entry, Piece};
use super::super::{MAX_PIECE, MAX_PIECES, PIECE};
use super::Damage;
use super::scan::Found;
use crate::model::Extent;
use crate::sys::patient_file::PatientFile;

/// What is known of a part of the tar stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It can be read.
    Good,
    /// It cannot, and is as long as it says.
    Lost,
    /// It cannot, and may be longer or shorter.
    Guessed,
}

/// The tar stream as parts that can be read and parts that cannot.
#[derive(Debug, Default)]
pub struct Parts {
    list: Vec<(Piece, State)>,
    length: u64,
    /// The last part that can be read.
    last_good: Option<usize>,
    /// How many parts corrections may still add: a file cannot have held more frames than fit into it.
    room: usize,
}

/// Bytes of the shortest frame: head, one block and checksum (RFC 8878, 3.1.1). A gzip member is longer.
const SHORTEST: u64 = 14;

impl Parts {
    /// Those of an uncompressed archive.
    pub fn plain(length: u64) -> Parts {
        let mut parts = Parts::default();
        for piece in table::plain(length).unwrap_or_default() {
            parts.push(piece.file_offset, piece.entry, State::Good);
        }
        parts
    }

    /// Whether any can be read.
    pub fn has_any(&self) -> bool {
        self.list.iter().any(|(_, state)| *state == State::Good)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// How many have at least one byte between two offsets.
    pub fn count_in(&self, from: u64, until: u64) -> usize {
        self.touched(from, until).len()
    }

    /// Bytes of all that can be read.
    pub fn good_bytes(&self) -> u64 {
        self.ranges().filter(|(_, state)| *state == State::Good).map(|(range, _)| range.length).sum()
    }

    /// Where the last part that can be read ends.
    pub fn good_end(&self) -> Option<u64> {
        self.last_good.and_then(|at| self.list.get(at)).map(|(piece, _)| extent(piece).end())
    }

    /// Bytes of the tar stream, as far as is known.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// For readers: what is lost is there, too, and does not decode.
    pub fn pieces(&self, file: &Arc<PatientFile>, kind: Kind) -> Pieces {
        Pieces::new(file.clone(), kind, self.list.iter().map(|(piece, _)| *piece).collect())
    }

    /// Its parts in order: the range in the tar stream, and what is known of it.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = (Extent, State)> {
        self.ranges_in(0, self.length)
    }

    /// The same for the parts with at least one byte between two offsets.
    pub fn ranges_in(&self, from: u64, until: u64) -> impl DoubleEndedIterator<Item = (Extent, State)> {
        self.list[self.touched(from, until)].iter().map(|(piece, state)| (extent(piece), *state))
    }

    /// Their indexes in the list.
    fn touched(&self, from: u64, until: u64) -> std::ops::Range<usize> {
        let first = self.list.partition_point(|(piece, _)| extent(piece).end() <= from);
        let end = self.list.partition_point(|(piece, _)| piece.stream_offset < until);
        first..end.max(first)
    }

    /// The ranges that cannot be read within another one, by offset in that one; merged.
    pub fn lost_in(&self, outer: Extent) -> Vec<Extent> {
        let mut lost: Vec<Extent> = Vec::new();
        for (range, _) in self.ranges_in(outer.offset, outer.end()).filter(|(_, state)| *state != State::Good) {
            let (from, until) = (range.offset.max(outer.offset), range.end().min(outer.end()));
            if from >= until {
                continue;
            }
            let part = Extent { offset: from - outer.offset, length: until - from };
            match lost.last_mut() {
                Some(last) if last.end() == part.offset => last.length += part.length,
                _ => lost.push(part),
            }
        }
        // What lies behind the end is lost, too.
        if outer.end() > self.length.max(outer.offset) {
            let from = self.length.max(outer.offset) - outer.offset;
            match lost.last_mut() {
                Some(last) if last.end() == from => last.length = outer.length - last.offset,
                _ => lost.push(Extent { offset: from, length: outer.length - from }),
            }
        }
        lost
    }

    /// The parts of unknown length between two offsets become so many bytes longer in all. Of several nobody knows which, so
    /// that all between the first and the last is lost. `false` if no writer would have cut its pieces so: they are all of one
    /// length but for the manifest's and the one before the checksums.
    pub fn stretch(&mut self, from: u64, until: u64, by: i128) -> bool {
        let within = |(piece, state): &(Piece, State)| {
            *state == State::Guessed && piece.stream_offset >= from && piece.stream_offset < until
        };
        let touched = self.touched(from, until);
        let part = &self.list[touched.clone()];
        let Some(first) = part.iter().position(within) else { return by == 0 };
        let last = touched.start + part.iter().rposition(within).unwrap_or(first);
        let first = touched.start + first;
        let old = extent(&self.list[last].0).end() - self.list[first].0.stream_offset;
        let Ok(new) = u64::try_from(i128::from(old) + by) else { return false };
        let is_cut = self.list.get(last + 1).is_some_and(|(piece, _)| piece.stream_offset == until);
        if !new.is_multiple_of(PIECE as u64) && !is_cut {
            return false;
        }
        let needed = usize::try_from(new.div_ceil(MAX_PIECE as u64)).unwrap_or(usize::MAX);
        let added = needed.saturating_sub(last + 1 - first);
        let Some(room) = self.room.checked_sub(added) else { return false };
        self.room = room;
        let behind = self.list.split_off(last + 1);
        let file_offset = self.list[first].0.file_offset;
        self.list.truncate(first);
        self.length = self.list.last().map_or(0, |(piece, _)| piece.stream_offset + u64::from(piece.entry.unpacked));
        self.find_last_good(first);
        self.push_lost(file_offset, new, State::Lost);
        for (piece, state) in behind {
            self.push(piece.file_offset, piece.entry, state);
        }
        true
    }

    /// Whether the length of any part between two offsets was guessed.
    pub fn has_guess(&self, from: u64, until: u64) -> bool {
        self.ranges_in(from, until).any(|(_, state)| state == State::Guessed)
    }

    /// What was guessed between two offsets is as long as it was guessed.
    pub fn settle(&mut self, from: u64, until: u64) {
        let touched = self.touched(from, until);
        for (piece, state) in &mut self.list[touched] {
            if *state == State::Guessed && piece.stream_offset >= from && piece.stream_offset < until {
                *state = State::Lost;
            }
        }
    }

    /// All between two offsets is lost.
    pub fn lose(&mut self, from: u64, until: u64) {
        let touched = self.touched(from, until);
        for (piece, state) in &mut self.list[touched] {
            if piece.stream_offset >= from && piece.stream_offset < until {
                *state = State::Lost;
            }
        }
        self.find_last_good(self.list.len());
    }

    /// Goes back from where it was to the last part before `end` that can be read.
    fn find_last_good(&mut self, end: usize) {
        let end = self.last_good.map_or(0, |last| last + 1).min(end);
        self.last_good = self.list[..end].iter().rposition(|(_, state)| *state == State::Good);
    }

    fn push(&mut self, file_offset: u64, entry: Entry, state: State) {
        if state == State::Good {
            self.last_good = Some(self.list.len());
        }
        self.list.push((Piece { file_offset, stream_offset: self.length, entry }, state));
        self.length += u64::from(entry.unpacked);
    }

    /// A lost part; one that was absurdly long would have had to be written, too, so that 64 TiB are enough.
    fn push_lost(&mut self, file_offset: u64, length: u64, state: State) {
        let mut left = length.min(MAX_PIECES as u64 * MAX_PIECE as u64);
        while left > 0 {
            // Fits: at most `MAX_PIECE`.
            let unpacked = left.min(MAX_PIECE as u64) as u32;
            self.push(file_offset, Entry { packed: 0, unpacked, check: 0 }, state);
            left -= u64::from(unpacked);
        }
    }
}

fn extent(piece: &Piece) -> Extent {
    Extent { offset: piece.stream_offset, length: piece.entry.unpacked.into() }
}

/// Puts the frames in their places: by the seek table where there is one.
pub fn place(file: &PatientFile, length: u64, kind: Kind, found: &[Found]) -> (Parts, Vec<Damage>) {
    let mut damages = Vec::new();
    for gap in found {
        if let Found::Gap(offset, length, _) = *gap {
            damages.push(Damage { offset, length, what: "no complete frame" });
        }
    }
    let parts = match table::read(file, length, kind) {
        Ok(pieces) => {
            let entries: Vec<Entry> = pieces.iter().map(|piece| piece.entry).collect();
            let parts = by_table(&entries, found, State::Lost);
            let differs =
                |((piece, state), entry): (&(Piece, State), &Entry)| *state == State::Good && piece.entry != *entry;
            if parts.as_ref().is_some_and(|parts| parts.list.iter().zip(&entries).any(differs)) {
                let end = found.last().map_or(0, Found::end);
                let rest = length.saturating_sub(end);
                damages.push(Damage { offset: end, length: rest, what: "an entry of the seek table is wrong" });
            }
            parts
        }
        Err(_) => {
            let end = found.last().map_or(0, Found::end);
            damages.push(Damage { offset: end, length: length.saturating_sub(end), what: "no complete seek table" });
            table::salvage(file, length, kind).and_then(|entries| by_table(&entries, found, State::Guessed))
        }
    };
    let mut parts = parts.unwrap_or_else(|| in_a_row(found));
    parts.room = usize::try_from(length / SHORTEST).unwrap_or(usize::MAX).saturating_add(1);
    (parts, damages)
}

/// By the table: a frame's place is where its checksum and length stand there. `None` if the table knows none of the frames.
/// `lost` is how far its other lengths are trusted.
fn by_table(entries: &[Entry], found: &[Found], lost: State) -> Option<Parts> {
    let mut by_contents: HashMap<(u32, u32), VecDeque<(u64, Entry)>> = HashMap::new();
    for frame in found {
        if let Found::Frame(offset, entry) = *frame {
            by_contents.entry((entry.unpacked, entry.check)).or_default().push_back((offset, entry));
        }
    }
    let mut placed: Vec<Option<(u64, Entry)>> = Vec::with_capacity(entries.len());
    for entry in entries {
        placed.push(by_contents.get_mut(&(entry.unpacked, entry.check)).and_then(VecDeque::pop_front));
    }
    placed.iter().any(Option::is_some).then_some(())?;
    let mut left: Vec<(u64, Entry)> = by_contents.into_values().flatten().collect();
    left.sort_by_key(|(offset, _)| *offset);
    fill(&mut placed, &left);
    let mut parts = Parts::default();
    for (entry, place) in entries.iter().zip(placed) {
        match place {
            Some((offset, own)) => parts.push(offset, own, State::Good),
            None if entry.unpacked as usize <= MAX_PIECE => parts.push_lost(0, entry.unpacked.into(), lost),
            None => parts.push_lost(0, PIECE as u64, State::Guessed),
        }
    }
    Some(parts)
}

/// Frames that are whole while their own entries are not: as many as entries, right between two neighbours that are known.
fn fill(placed: &mut [Option<(u64, Entry)>], left: &[(u64, Entry)]) {
    let end = |(offset, entry): (u64, Entry)| offset + u64::from(entry.packed);
    let mut from = 0;
    while let Some(first) = (from..placed.len()).find(|&at| placed[at].is_none()) {
        let behind = (first..placed.len()).find(|&at| placed[at].is_some()).unwrap_or(placed.len());
        from = behind;
        let mut at = first.checked_sub(1).and_then(|before| placed[before]).map_or(0, end);
        let start = left.partition_point(|(offset, _)| *offset < at);
        let Some(frames) = left.get(start..start + (behind - first)) else { continue };
        let in_a_row = frames.iter().all(|&frame| std::mem::replace(&mut at, end(frame)) == frame.0);
        let is_followed = placed.get(behind).copied().flatten().is_none_or(|(offset, _)| offset == at);
        if in_a_row && is_followed {
            placed[first..behind].iter_mut().zip(frames).for_each(|(place, frame)| *place = Some(*frame));
        }
    }
}

/// As they lie in the file. What is lost held what its own head says, or as much as a piece holds.
fn in_a_row(found: &[Found]) -> Parts {
    let mut parts = Parts::default();
    for found in found {
        match *found {
            Found::Frame(offset, entry) => parts.push(offset, entry, State::Good),
            Found::Gap(offset, _, held) => {
                parts.push_lost(offset, held.map_or(PIECE as u64, u64::from), State::Guessed);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests;
