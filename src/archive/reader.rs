//! Owns: an archive that is read: its pieces, members and digests. Must not: write, or trust a number in the file.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::header::{self, BLOCK, Parsed};
use super::kind::Kind;
use super::manifest::Manifest;
use super::stream::{MemberReader, Pieces};
use super::sums::{self, Sums};
use super::{Error, MANIFEST, MAX_SMALL, SUMS, table};
use crate::model::{Digest, Hasher};
use crate::sys::patience::Patience;
use crate::sys::patient_file::PatientFile;

/// Members of one archive, at most; a domain has far fewer disks.
pub(super) const MAX_MEMBERS: usize = 10_000;

/// An open archive. Opening reads its index; no method reads disk data but those that say so.
pub struct Archive {
    pieces: Arc<Pieces>,
    index: OnceLock<Index>,
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Of its first byte, in the tar stream.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// What the tar headers and `SHA256SUMS` say.
struct Index {
    members: Vec<Member>,
    sums: Sums,
}

impl Archive {
    /// Opens an archive and reads its index. The compression is known by the file's first bytes, not by its name.
    pub fn open(path: &Path) -> Result<Archive, Error> {
        Archive::open_patiently(path, &Patience::default())
    }

    /// The same, with as much patience for every call on the file.
    pub fn open_patiently(path: &Path, patience: &Patience) -> Result<Archive, Error> {
        let open = |source| Error::Open { path: path.to_owned(), source };
        let file = PatientFile::open(path, patience).map_err(open)?;
        let status = file.with(|file| file.metadata()).map_err(open)?;
        let mut start = Vec::new();
        file.read(&mut start, BLOCK as usize, 0).map_err(open)?;
        let kind = Kind::detect(&start).ok_or_else(|| Error::Foreign { path: path.to_owned() })?;
        let pieces = table::read(&file, status.len(), kind)?;
        Ok(Archive { pieces: Arc::new(Pieces::new(Arc::new(file), kind, pieces)), index: OnceLock::new() })
    }

    /// The manifest. Decodes the first piece only (an uncompressed archive has no checksums but SHA-256: there the tar
    /// headers are walked to check it).
    pub fn manifest(&self) -> Result<Manifest, Error> {
        let mut cursor = Cursor::new(&self.pieces);
        let member = match cursor.next_member(0)? {
            Some((member, _)) if member.name == MANIFEST => member,
            _ => return Err(Error::Missing { member: MANIFEST.to_owned() }),
        };
        let bytes = match self.pieces.kind() {
            Kind::None => self.read(&member)?,
            _ => cursor.read(&member, MAX_SMALL).map_err(|error| error.of(MANIFEST))?,
        };
        Manifest::from_json(&bytes)
    }

    /// All members in order. Reads the pieces that hold tar headers, and no others.
    pub fn members(&self) -> Result<&[Member], Error> {
        Ok(&self.index()?.members)
    }

    /// The member with this name.
    pub fn member(&self, name: &str) -> Result<&Member, Error> {
        let found = self.members()?.iter().find(|member| member.name == name);
        found.ok_or_else(|| Error::Missing { member: name.to_owned() })
    }

    /// The digests of all members but `SHA256SUMS`, as it tells them.
    pub fn sums(&self) -> Result<&Sums, Error> {
        Ok(&self.index()?.sums)
    }

    /// A small member's contents, checked by SHA-256; at most [`MAX_SMALL`] bytes.
    pub fn read(&self, member: &Member) -> Result<Vec<u8>, Error> {
        self.read_up_to(member, MAX_SMALL)
    }

    /// The same with another limit, in bytes: a kernel or initrd may need it.
    pub fn read_up_to(&self, member: &Member, limit: u64) -> Result<Vec<u8>, Error> {
        let bytes = Cursor::new(&self.pieces).read(member, limit).map_err(|error| error.of(&member.name))?;
        if member.name != SUMS {
            let mut hasher = Hasher::new();
            hasher.update(&bytes);
            if hasher.finish() != self.digest(&member.name)? {
                return Err(Error::Digest { member: member.name.clone() });
            }
        }
        Ok(bytes)
    }

    /// A member's contents as a stream; `threads` decode ahead of it, in at most `threads + 2` pieces of 4 MiB.
    pub fn stream(&self, member: &Member, threads: usize) -> Result<MemberReader, Error> {
        self.check_range(member)?;
        let digest = match self.pieces.kind() {
            Kind::None if member.name != SUMS => Some(self.digest(&member.name)?),
            _ => None,
        };
        let range = (member.name.as_str(), member.offset, member.length);
        MemberReader::new(self.pieces.clone(), range, threads, digest)
    }

    /// Length of the file, in bytes, as its pieces have it; what [`Archive::verify`]'s progress adds up to.
    pub fn packed_bytes(&self) -> u64 {
        self.pieces.list().iter().map(|piece| u64::from(piece.entry.packed)).sum()
    }

    /// Length of the tar stream, in bytes.
    pub fn unpacked_bytes(&self) -> u64 {
        self.pieces.stream_len()
    }

    pub(super) fn pieces(&self) -> &Arc<Pieces> {
        &self.pieces
    }

    fn digest(&self, name: &str) -> Result<Digest, Error> {
        self.sums()?.get(name).copied().ok_or_else(|| Error::Unlisted { member: name.to_owned() })
    }

    pub(super) fn check_range(&self, member: &Member) -> Result<(), Error> {
        match member.offset.checked_add(member.length) {
            Some(end) if end <= self.pieces.stream_len() => Ok(()),
            _ => Err(Error::Misuse { member: member.name.clone(), what: "it is not of this archive" }),
        }
    }

    fn index(&self) -> Result<&Index, Error> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let mut cursor = Cursor::new(&self.pieces);
        let members = walk(&mut cursor)?;
        let last = members.last().filter(|last| last.name == SUMS);
        let last = last.ok_or_else(|| Error::Missing { member: SUMS.to_owned() })?;
        let sums = sums::parse(&cursor.read(last, MAX_SMALL).map_err(|error| error.of(SUMS))?)?;
        Ok(self.index.get_or_init(|| Index { members, sums }))
    }
}

/// All members, with everything around their contents checked.
fn walk(cursor: &mut Cursor<'_>) -> Result<Vec<Member>, Error> {
    let mut members = Vec::new();
    let mut seen = HashSet::new();
    let mut offset = 0;
    while let Some((member, next)) = cursor.next_member(offset)? {
        if members.len() == MAX_MEMBERS {
            return Err(Error::Header { offset, what: "there are too many members" });
        }
        if !seen.insert(member.name.clone()) {
            return Err(Error::Name { name: member.name, what: "it occurs twice" });
        }
        members.push(member);
        offset = next;
    }
    cursor.zeros(offset, 2 * BLOCK)?;
    if cursor.pieces.stream_len() != offset + 2 * BLOCK {
        return Err(Error::Header { offset, what: "the tar stream goes on after its end" });
    }
    if members.first().is_none_or(|first| first.name != MANIFEST) {
        return Err(Error::Missing { member: MANIFEST.to_owned() });
    }
    Ok(members)
}

/// Random access to the tar stream; keeps the last piece it has decoded.
pub(super) struct Cursor<'a> {
    pieces: &'a Pieces,
    index: Option<usize>,
    piece: Vec<u8>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(pieces: &'a Pieces) -> Cursor<'a> {
        Cursor { pieces, index: None, piece: Vec::new() }
    }

    /// The member whose header is at `offset`, and where the next header is; `None` at the end of the stream.
    fn next_member(&mut self, offset: u64) -> Result<Option<(Member, u64)>, Error> {
        let Some((member, next)) = self.header(offset)? else { return Ok(None) };
        let end = member.offset + member.length;
        if end > self.pieces.stream_len() {
            return Err(Error::Header { offset, what: "the member is longer than the archive" });
        }
        self.zeros(end, next - end)?;
        Ok(Some((member, next)))
    }

    /// The same, by what its header alone says: its contents may not be there.
    pub(super) fn header(&mut self, offset: u64) -> Result<Option<(Member, u64)>, Error> {
        let damaged = |what| Error::Header { offset, what };
        let mut at = offset;
        let mut long = None;
        if let Parsed::LongName(length) = header::parse(&self.block(at)?, at)? {
            // At most `names::MAX + 1`: the parser has checked it.
            let mut name = vec![0; length as usize];
            self.copy(at + BLOCK, &mut name)?;
            let after = at + BLOCK + length;
            self.zeros(after, header::padding(length))?;
            if name.pop() != Some(0) {
                return Err(damaged("the long name does not end"));
            }
            long = Some(name);
            at = after + header::padding(length);
        }
        let (name, length) = match (header::parse(&self.block(at)?, at)?, long) {
            (Parsed::File(_, length), Some(name)) => (name, length),
            (Parsed::File(name, length), None) => (name, length),
            (Parsed::End, None) => return Ok(None),
            _ => return Err(damaged("a long name without a member")),
        };
        let start = at + BLOCK;
        let next = start.checked_add(length).and_then(|end| end.checked_add(header::padding(length)));
        let next = next.ok_or(damaged("the member is longer than the archive"))?;
        let name = header::name(name, offset)?;
        Ok(Some((Member { name, offset: start, length }, next)))
    }

    /// A member's contents.
    fn read(&mut self, member: &Member, limit: u64) -> Result<Vec<u8>, Error> {
        let Member { name, offset, length } = member;
        if *length > limit {
            return Err(Error::TooLarge { member: name.clone(), length: *length, limit });
        }
        let outside = || Error::Misuse { member: name.clone(), what: "it is not of this archive" };
        let end = offset.checked_add(*length).filter(|&end| end <= self.pieces.stream_len());
        end.ok_or_else(outside)?;
        let mut bytes = vec![0; usize::try_from(*length).map_err(|_| outside())?];
        self.copy(*offset, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn block(&mut self, offset: u64) -> Result<[u8; BLOCK as usize], Error> {
        let mut block = [0; BLOCK as usize];
        self.copy(offset, &mut block)?;
        Ok(block)
    }

    /// Padding must be zeros, so that no byte of the stream can change unnoticed. `length` is small.
    fn zeros(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        let mut bytes = vec![0; length as usize];
        self.copy(offset, &mut bytes)?;
        match bytes.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err(Error::Header { offset, what: "the padding before it is not zero" }),
        }
    }

    pub(super) fn copy(&mut self, mut offset: u64, mut out: &mut [u8]) -> Result<(), Error> {
        while !out.is_empty() {
            if offset >= self.pieces.stream_len() {
                return Err(Error::Header { offset, what: "the tar stream is truncated" });
            }
            let index = self.pieces.index_at(offset);
            if self.index != Some(index) {
                self.index = None;
                self.pieces.decode(index, &mut self.piece)?;
                self.index = Some(index);
            }
            // The piece holds the offset, so that this is less than its length.
            let at = (offset - self.pieces.list()[index].stream_offset) as usize;
            let (now, later) = out.split_at_mut(out.len().min(self.piece.len() - at));
            now.copy_from_slice(&self.piece[at..at + now.len()]);
            offset += now.len() as u64;
            out = later;
        }
        Ok(())
    }
}
