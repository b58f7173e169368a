//! What is left of a damaged archive: every frame that its own checksum vouches for, in its place, whatever became of the
//! manifest, the seek table and the frames around it.
//!
//! Owns: the members of a damaged archive, and which of their bytes are lost. Must not: guess a byte, or write.
//!
//! | file | owns |
//! |---|---|
//! | `scan` | the file from start to end: whole frames, and the gaps between them |
//! | `place` | where frames and gaps lie in the tar stream |
//! | `walk` | the tar stream: members, found again behind what is lost |
//! | `nameless` | disks whose tar header is lost |
//!
//! A frame is known by its contents, for the seek table has a checksum of each: one that has moved still finds its place.
//! Without a table, lost frames are taken to be as long as frames are, until a tar header behind them tells better; what lies
//! between two gaps that cannot be told apart counts as lost. An uncompressed archive has no frames: of its members, only
//! SHA-256 tells whether they are what they were.

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

/// A damaged archive, as far as it can be read.
pub struct Salvage {
    file: Arc<PatientFile>,
    pieces: Pieces,
    remains: Vec<Remains>,
    damages: Vec<Damage>,
    sums: Sums,
    manifest: Option<Manifest>,
    /// The last decoded piece and its contents: one piece may hold many members.
    last: Mutex<(Option<usize>, Vec<u8>)>,
}

/// What is left of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// Its name; `None` where its tar header is lost and nothing else tells it for sure.
    pub name: Option<String>,
    /// Of its first byte, in the tar stream.
    offset: u64,
    /// Its bytes, lost ones included.
    pub length: u64,
    /// What of it cannot be read, by offset in the member; ascending, apart.
    pub lost: Vec<Extent>,
    /// Whether it is known where it begins; else, only distances from its end are right, and it may begin later.
    pub is_placed: bool,
}

/// A place of the file that is not what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its first byte, in the file.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// What is wrong.
    pub what: &'static str,
}

/// How far a member can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A checksum of it, or of each of its frames, is right.
    Whole,
    /// Nothing says whether its bytes are right.
    Unchecked,
    /// Its bytes are not those that were written, and nothing says which.
    Wrong,
    /// Some of its bytes are lost; the others are right, if the archive is compressed.
    Torn,
}

impl Salvage {
    /// Reads the whole file. The end of its name tells how it was compressed, for its first bytes may be lost.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Read`], [`Error::Foreign`] when nothing of an archive is in it.
    pub fn open(path: &Path) -> Result<Salvage, Error> {
        Salvage::open_patiently(path, &Patience::default(), &Cancel::default())
    }

    /// The same, with a deadline for every call on the file. A file that hangs is an error, not damage; so is a signal.
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
        // Whatever else a reader of good archives finds wrong.
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

    /// Fails if the file ever hung: what could not be read then is not lost.
    pub fn expect_answers(&self) -> Result<(), Error> {
        self.file.expect_answers().map_err(|source| Error::Read { offset: 0, source })
    }

    /// Its members, in order, with what has lost its name.
    pub fn remains(&self) -> &[Remains] {
        &self.remains
    }

    /// The places of the file that are damaged.
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    /// The manifest, if it can be read; in an uncompressed archive, nothing vouches for it.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The members that `SHA256SUMS` or the manifest name and that were not found.
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

    /// Reads bytes of a member, from `offset` on; `false` if any of them is lost, or past its end.
    pub fn read(&self, remains: &Remains, offset: u64, out: &mut [u8]) -> bool {
        let wanted = Extent { offset, length: out.len() as u64 };
        let mut lost = wanted.end() > remains.length;
        let Ok(()) = self.each_in(remains, wanted, |at, bytes| {
            match bytes {
                Some(bytes) => {
                    // Both lie within `out`.
                    let at = (at - offset) as usize;
                    out[at..at + bytes.len()].copy_from_slice(bytes);
                }
                None => lost = true,
            }
            Ok::<(), Infallible>(())
        });
        !lost
    }

    /// Gives a range of a member to `sink` in order, with the offset in the member: bytes, or `None` for a lost piece of it,
    /// of which only the first is told.
    ///
    /// # Errors
    /// The sink's own.
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
            // It was decoded before; only a file that changes meanwhile, or a disk that does, makes this fail.
            if *held != Some(index) {
                *held = None;
                *held = self.pieces.decode(index, piece).ok().map(|()| index);
            }
            sink(at, held.and_then(|_| piece.get(from as usize..until as usize)))?;
            at += until.saturating_sub(from).max(1);
        }
        Ok(())
    }

    /// How far a member can be trusted. Reads all of it.
    pub fn trust(&self, remains: &Remains) -> Trust {
        if !remains.lost.is_empty() {
            return Trust::Torn;
        }
        let Some(name) = &remains.name else { return Trust::Unchecked };
        let Some(digest) = self.sums.get(name) else {
            // Without frames, checksums are right when all that they speak of is.
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

    /// All members in their order, if a checksum vouches for the list of them.
    fn order(&self) -> Option<Vec<String>> {
        let sums = self.remains.iter().find(|remains| remains.name.as_deref() == Some(SUMS))?;
        let is_vouched = sums.lost.is_empty() && self.pieces.kind() != Kind::None;
        let mut order = sums::order(&self.small(SUMS).filter(|_| is_vouched)?)?;
        order.push(SUMS.to_owned());
        Some(order)
    }

    /// A small member that is not torn.
    fn small(&self, name: &str) -> Option<Vec<u8>> {
        let remains = self.remains.iter().find(|remains| remains.name.as_deref() == Some(name))?;
        if remains.length > MAX_SMALL {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(remains.length).ok()?];
        // Lines of the checksums stand for themselves.
        (self.read(remains, 0, &mut bytes) || name == SUMS).then_some(bytes)
    }
}

/// The store names archives by how they are compressed.
fn kind_by_name(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?;
    let kinds = [(".tar.zst", Kind::Zstd), (".tar.gz", Kind::Gzip), (".tar", Kind::None)];
    kinds.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| kind)
}
