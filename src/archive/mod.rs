//! The single-file format of a restore point: a tar stream cut into pieces that are compressed on their own, so that
//! readers decode in parallel and at random. `docs/format.md` describes it for people.
//!
//! Owns: the bytes of an archive, both ways, and what makes them trustworthy. Must not: know where archives are stored,
//! how disks are read, or libvirt.
//!
//! | file | owns |
//! |---|---|
//! | `writer`, `pipeline` | members → tar stream → pieces → compressed in parallel → file |
//! | `reader`, `stream`, `verify` | file → pieces decoded ahead → members; every byte checked |
//! | `random` | any range of a member |
//! | `codec`, `gzip`, `table` | one piece compressed; the gzip member's frame; the index at the end |
//! | `header`, `names`, `sums` | tar headers; which names are fit; `SHA256SUMS` |
//! | `manifest` | `manifest.json` |
//! | `salvage` | what is left of a damaged archive |
//! | `seed` | the archives of the Python script that this program replaces |

mod codec;
mod error;
mod gzip;
mod header;
mod kind;
pub mod manifest;
mod names;
mod pipeline;
mod random;
mod reader;
pub mod salvage;
pub mod seed;
mod stream;
mod sums;
mod table;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use error::Error;
pub use manifest::Manifest;
pub use random::RandomReader;
pub use reader::{Archive, Member};
pub use stream::MemberReader;
pub use sums::Sums;
pub use writer::{Writer, Written};

/// Bytes of the tar stream in one piece; only the pieces before a cut are shorter.
///
/// This crate's own tests have short ones: damage over many of them is found fast even without optimizations.
pub const PIECE: usize = if cfg!(test) { 128 << 10 } else { FULL_PIECE };

/// What cannot be compressed fits into a [`Buffer`](crate::sys::buffer::Buffer), too, with what a frame or a member adds.
const FULL_PIECE: usize = (4 << 20) - (32 << 10);

/// Bytes of the tar stream that a reader accepts in one piece, whatever an archive claims.
const MAX_PIECE: usize = 16 << 20;

/// Pieces of one archive, at most: 64 TiB of tar stream. Readers hold 24 bytes for each.
const MAX_PIECES: usize = 16 << 20;

/// Name of the first member.
pub const MANIFEST: &str = "manifest.json";

/// Name of the last member.
pub const SUMS: &str = "SHA256SUMS";

/// Bytes of a member that [`Archive::read`] returns, at most.
pub const MAX_SMALL: u64 = 16 << 20;
