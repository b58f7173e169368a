//! Detects how an archive's pieces are compressed from its first bytes. Must not compress.

use super::gzip;
use crate::model::Codec;

/// Magic number of a zstd frame (RFC 8878).
pub(super) const ZSTD: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// The codec without its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Zstd,
    Gzip,
    None,
}

impl Kind {
    /// Whether each piece has a checksum.
    pub(super) fn has_checksums(self) -> bool {
        self != Kind::None
    }

    /// Detects the kind from the first bytes of a file; `None` if it is no kvmbackup archive.
    pub(super) fn detect(start: &[u8]) -> Option<Kind> {
        match start {
            _ if start.starts_with(&ZSTD) => Some(Kind::Zstd),
            _ if gzip::is_ours(start) => Some(Kind::Gzip),
            // The magic of a GNU tar header.
            _ if start.get(257..265) == Some(b"ustar  \0") => Some(Kind::None),
            _ => None,
        }
    }
}

impl From<Codec> for Kind {
    fn from(codec: Codec) -> Kind {
        match codec {
            Codec::Zstd(_) => Kind::Zstd,
            Codec::Gzip(_) => Kind::Gzip,
            Codec::None => Kind::None,
        }
    }
}
