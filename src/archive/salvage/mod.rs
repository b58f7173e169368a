//! Salvages a damaged archive: every frame with a valid checksum, in its place, regardless of the state of the
//! manifest, the seek table and other frames.
//!
//! Returns the members and which of their bytes are lost. Must not guess a byte, or write.
//!
//! | module | contents |
//! |---|---|
//! | `scan` | the file from start to end: intact frames, and the gaps between them |
//! | `place` | the positions of frames and gaps in the tar stream |
//! | `walk` | the tar stream: members, found again after lost ranges |
//! | `nameless` | disks whose tar header is lost |
//!
//! A frame is recognised by its contents, because the seek table has a checksum of each: a frame that has moved still
//! finds its place. Without a table, lost frames are assumed to have the usual length until a tar header after them
//! shows otherwise; anything between two indistinguishable gaps counts as lost. An uncompressed archive has no
//! frames, so only the SHA-256 of a member shows whether it is unchanged.

mod nameless;
mod place;
mod scan;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use self::place::Parts;
use super::kind::Kind;
use super::manifest::Manifest;
use super::stream::Pieces;
use super::sums::{self, Sums};
use super::{Archive, Error, MANIFEST, MAX_SMALL, SUMS};
use crate::model::Extent;
use crate::model::Hasher;
use crate::sys::patience::Patience;
use crate::sys::patient_file::PatientFile;
use crate::sys::signals::Cancel;

/// The readable parts of a damaged archive.
pub struct Salvage {
    file: Arc<PatientFile>,
    pieces: Pieces,
    remains: Vec<Remains>,
    damages: Vec<Damage>,
    sums: Sums,
    manifest: Option<Manifest>,
    /// The last decoded piece and its contents, because one piece may contain many members.
    last: Mutex<(Option<usize>, Vec<u8>)>,
}

/// The readable part of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// Member name; `None` if its tar header is lost and the name is not certain.
    pub name: Option<String>,
    /// Offset of its first byte in the tar stream.
    offset: u64,
    /// Length in bytes, including lost ones.
    pub length: u64,
    /// Lost ranges, by offset in the member; ascending, not adjacent.
    pub lost: Vec<Extent>,
    /// Whether its start is known. If not, only distances from its end are correct, and it may start later.
    pub is_placed: bool,
}

/// A damaged range of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// What is wrong.
    pub what: &'static str,
}

/// How far a member can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Its checksum, or that of each of its frames, matches.
    Whole,
    /// Complete, but no checksum covers it.
    Unchecked,
    /// Its checksum does not match; the damaged range is unknown.
    Wrong,
    /// Some of its bytes are lost. If the archive is compressed, the others are correct.
    Torn,
}

impl Salvage {
    /// Reads the whole file. The codec is taken from the extension, because the first bytes may be lost.
    ///
    /// # Errors
    /// [`Error::Open`] and [`Error::Read`]; [`Error::Foreign`] if it contains nothing of an archive.
    pub fn open(path: &Path) -> Result<Salvage, Error> {
        Salvage::open_patiently(path, &Patience::default(), &Cancel::default())
    }

    /// The same, with a time limit for every call on the file. A hung file or a signal is an error, not damage.
    pub fn open_patiently(path: &Path, patience: &Patience, cancel: &Cancel) -> Result<Salvage, Error> {
        let open = |source| Error::Open { path: path.to_owned(), source };
        let file = Arc::new(PatientFile::open(path, patience).map_err(open)?);
        let length = file.with(|file| file.metadata()).map_err(open)?.len();
        let foreign = || Error::Foreign { path: path.to_owned() };
        let kind = kind_by_name(path).ok_or_else(foreign)?;
        let (mut parts, mut damages) = (Parts::plain(length), Vec::new());
        if kind != Kind::None {
            let found = scan::scan(&file, length, kind, cancel)?;
            (parts, damages) = place::place(&file, length, kind, &found);
        }
        if !parts.has_any() {
            return Err(foreign());
        }
        let remains = walk::walk(&file, kind, &mut parts, cancel)?;
        let pieces = parts.pieces(&file, kind);
        // Anything else that a normal reader would report.
        let is_read = || Archive::open_patiently(path, patience)?.members().map(drop);
        if damages.is_empty() && is_read().is_err() {
            damages.push(Damage { offset: 0, length, what: "no complete tar stream" });
        }
        let mut salvage =
            Salvage { file, pieces, remains, damages, sums: Sums::new(), manifest: None, last: Mutex::default() };
        salvage.sums = salvage.small(SUMS).map(|bytes| sums::salvage(&bytes)).unwrap_or_default();
        if let Some(order) = salvage.order() {
            nameless::name(&mut salvage.remains, &order);
        }
        salvage.manifest = salvage.small(MANIFEST).and_then(|bytes| Manifest::from_json(&bytes).ok());
        salvage.expect_answers()?;
        Ok(salvage)
    }

    /// Fails if the file ever hung, because data that could not be read then is not lost.
    pub fn expect_answers(&self) -> Result<(), Error> {
        self.file.expect_answers().map_err(|source| Error::Read { offset: 0, source })
    }

    /// All members in order, including data without a name.
    pub fn remains(&self) -> &[Remains] {
        &self.remains
    }

    /// Damaged ranges of the file.
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    /// The manifest, if readable; in an uncompressed archive no checksum confirms it.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Members named by `SHA256SUMS` or the manifest that were not found.
    pub fn missing(&self) -> Vec<String> {
        let manifest = self.manifest.iter().flat_map(Manifest::members);
        let mut names: Vec<String> = self.sums.keys().map(String::as_str).chain(manifest).map(str::to_owned).collect();
        names.push(SUMS.to_owned());
        names.sort();
        names.dedup();
        let found: HashSet<&String> = self.remains.iter().filter_map(|remains| remains.name.as_ref()).collect();
        names.retain(|name| !found.contains(name));
        names
    }

    /// Reads bytes of a member from `offset` on; `false` if any of them is lost or after its end.
    pub fn read(&self, remains: &Remains, offset: u64, out: &mut [u8]) -> bool {
        let wanted = Extent { offset, length: out.len() as u64 };
        let mut lost = wanted.end() > remains.length;
        let Ok(()) = self.each_in(remains, wanted, |at, bytes| {
            match bytes {
                Some(bytes) => {
                    // Both are inside `out`.
                    let at = (at - offset) as usize;
                    out[at..at + bytes.len()].copy_from_slice(bytes);
                }
                None => lost = true,
            }
            Ok::<(), Infallible>(())
        });
        !lost
    }

    /// Passes a range of a member to `sink` in order, with the offset in the member: bytes, or `None` once for each
    /// lost range.
    ///
    /// # Errors
    /// Errors of `sink`.
    pub fn each_in<E>(
        &self,
        remains: &Remains,
        wanted: Extent,
        mut sink: impl FnMut(u64, Option<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, piece) = &mut *last;
        let end = wanted.end().min(remains.length);
        let mut at = wanted.offset;
        while at < end {
            let stop = match remains.lost.get(remains.lost.partition_point(|lost| lost.end() <= at)) {
                Some(lost) if lost.offset <= at => {
                    sink(at, None)?;
                    at = lost.end();
                    continue;
                }
                Some(next) => next.offset.min(end),
                None => end,
            };
            let index = self.pieces.index_at(remains.offset + at);
            let Some(&found) = self.pieces.list().get(index) else { return sink(at, None) };
            let from = remains.offset + at - found.stream_offset;
            let until = (remains.offset + stop - found.stream_offset).min(u64::from(found.entry.unpacked));
            // It was decodable before, so this fails only if the file changed or the disk developed an error.
            if *held != Some(index) {
                *held = None;
                *held = self.pieces.decode(index, piece).ok().map(|()| index);
            }
            sink(at, held.and_then(|_| piece.get(from as usize..until as usize)))?;
            at += until.saturating_sub(from).max(1);
        }
        Ok(())
    }

    /// Checks how far a member can be trusted. Reads all of it.
    pub fn trust(&self, remains: &Remains) -> Trust {
        if !remains.lost.is_empty() {
            return Trust::Torn;
        }
        let Some(name) = &remains.name else { return Trust::Unchecked };
        let Some(digest) = self.sums.get(name) else {
            // Without frames, `SHA256SUMS` is intact if all members match it.
            let others = || self.remains.iter().filter(|other| other.name.as_deref() != Some(SUMS));
            let is_right = || name == SUMS && others().all(|other| self.trust(other) == Trust::Whole);
            let is_vouched = self.pieces.kind() != Kind::None || is_right();
            return if is_vouched { Trust::Whole } else { Trust::Unchecked };
        };
        let (mut hasher, mut torn) = (Hasher::new(), false);
        let all = Extent { offset: 0, length: remains.length };
        let Ok(()) = self.each_in(remains, all, |_, bytes| {
            bytes.map_or_else(|| torn = true, |bytes| hasher.update(bytes));
            Ok::<(), Infallible>(())
        });
        match (torn, hasher.finish() == *digest) {
            (true, _) => Trust::Torn,
            (false, true) => Trust::Whole,
            (false, false) => Trust::Wrong,
        }
    }

    /// All member names in order, if a checksum confirms the list.
    fn order(&self) -> Option<Vec<String>> {
        let sums = self.remains.iter().find(|remains| remains.name.as_deref() == Some(SUMS))?;
        let is_vouched = sums.lost.is_empty() && self.pieces.kind() != Kind::None;
        let mut order = sums::order(&self.small(SUMS).filter(|_| is_vouched)?)?;
        order.push(SUMS.to_owned());
        Some(order)
    }

    /// The contents of a small complete member.
    fn small(&self, name: &str) -> Option<Vec<u8>> {
        let remains = self.remains.iter().find(|remains| remains.name.as_deref() == Some(name))?;
        if remains.length > MAX_SMALL {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(remains.length).ok()?];
        // Each line of `SHA256SUMS` is useful on its own.
        (self.read(remains, 0, &mut bytes) || name == SUMS).then_some(bytes)
    }
}

/// The store chooses the extension by codec.
fn kind_by_name(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?;
    let kinds = [(".tar.zst", Kind::Zstd), (".tar.gz", Kind::Gzip), (".tar", Kind::None)];
    kinds.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| kind)
}
