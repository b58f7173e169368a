//! Parses the header of a pack, to compare it with the index in tests. Must not be in the program, which trusts the index
//! and the ID of each blob.

use super::Entry;
use crate::repository::{BlobKind, Corruption, Error, Id, Kind, Object, Repository};

/// Limit of a header in bytes, as in restic.
const MAX_HEADER: u32 = 16 << 20;

/// Size in bytes of the field with the header's length.
const LENGTH: u32 = 4;

/// The blobs that the header of a pack lists.
pub fn read_header(repository: &Repository, id: Id) -> Result<Vec<Entry>, Error> {
    let pack = Object::new(Kind::Pack, id);
    let damaged = |damage| repository.damaged(pack, damage);
    let size = repository.size(pack)?;
    let end = size.checked_sub(LENGTH.into()).ok_or_else(|| damaged(Corruption::Short))?;
    let length = repository.read(pack, end..size)?.try_into().map_or(u32::MAX, u32::from_le_bytes);
    if length > MAX_HEADER {
        return Err(damaged(Corruption::TooLarge { limit: MAX_HEADER.into() }));
    }
    let start = end.checked_sub(length.into()).ok_or_else(|| damaged(Corruption::Short))?;
    let header = repository.key().open(repository.read(pack, start..end)?);
    header.and_then(|header| parse(&header, start)).map_err(damaged)
}

/// Parses a header. Its blobs must fill the pack up to the header, which starts at `end`.
pub fn parse(mut header: &[u8], end: u64) -> Result<Vec<Entry>, Corruption> {
    let mut entries = Vec::new();
    let mut at = 0_u32;
    while let Some((kind, rest)) = header.split_first() {
        header = rest;
        let length = number(&mut header)?;
        let raw = if kind & 2 != 0 { Some(number(&mut header)?) } else { None };
        let (id, rest) = header.split_first_chunk().ok_or(Corruption::Short)?;
        header = rest;
        let kind = match kind {
            0 | 2 => BlobKind::Data,
            1 | 3 => BlobKind::Tree,
            _ => return Err(Corruption::Malformed("its header lists a blob of an unknown kind")),
        };
        entries.push(Entry { kind, id: Id::from_bytes(*id), offset: at, length, raw });
        at = at.checked_add(length).ok_or(Corruption::Malformed("its header lists more bytes than a pack can have"))?;
    }
    if u64::from(at) == end { Ok(entries) } else { Err(Corruption::Malformed("its header does not match its length")) }
}

fn number(bytes: &mut &[u8]) -> Result<u32, Corruption> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Corruption::Short)?;
    *bytes = rest;
    Ok(u32::from_le_bytes(*number))
}
