//! Encodes the gzip members of this format (RFC 1952): each has one extra subfield, so that readers find the next
//! member without decoding this one. Must not compress.

/// Subfield of a piece: the length of the whole member, as 4 little-endian bytes.
const LENGTH: [u8; 2] = *b"KB";

/// Subfield of an empty member, which contains part of the seek table.
const TABLE: [u8; 2] = *b"KT";

/// Magic, deflate, "extra field follows", no time, no flags, unknown system.
const START: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];

/// Bytes before the compressed data of a piece.
pub(super) const HEADER: usize = START.len() + 2 + 4 + 4;

/// Bytes after the compressed data: CRC-32 and length of the contents.
pub(super) const TRAILER: usize = 8;

/// Bytes of an empty member before its part of the seek table.
pub(super) const EMPTY_HEAD: usize = START.len() + 2 + 4;

/// Bytes of an empty member except its part of the seek table.
pub(super) const EMPTY: usize = EMPTY_HEAD + NOTHING.len();

/// Limit of the seek table per member, in bytes: whole entries, and the length of the extra field must fit 16 bits.
pub(super) const MAX_TABLE: usize = 5460 * 12;

/// An empty deflate stream and its trailer.
const NOTHING: [u8; 2 + TRAILER] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The header of a gzip member with this total length.
pub(super) fn header(member: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..10].copy_from_slice(&START);
    header[10..12].copy_from_slice(&8u16.to_le_bytes());
    header[12..14].copy_from_slice(&LENGTH);
    header[14..16].copy_from_slice(&4u16.to_le_bytes());
    header[16..].copy_from_slice(&member.to_le_bytes());
    header
}

/// Whether this is the start of a piece in a kvmbackup archive.
pub(super) fn is_ours(start: &[u8]) -> bool {
    start.len() >= HEADER && start[..16] == header(0)[..16]
}

/// Whether an empty member with part of the seek table starts here.
pub(super) fn is_table(bytes: &[u8]) -> bool {
    bytes.starts_with(&START) && bytes.get(12..14) == Some(&TABLE)
}

/// An empty member that contains part of the seek table, at most [`MAX_TABLE`] bytes.
pub(super) fn table_member(part: &[u8]) -> Vec<u8> {
    // At most 65520, so it fits with the 4 bytes of the subfield header.
    let length = part.len() as u16;
    let mut member = Vec::with_capacity(EMPTY + part.len());
    member.extend_from_slice(&START);
    member.extend_from_slice(&(length + 4).to_le_bytes());
    member.extend_from_slice(&TABLE);
    member.extend_from_slice(&length.to_le_bytes());
    member.extend_from_slice(part);
    member.extend_from_slice(&NOTHING);
    member
}
