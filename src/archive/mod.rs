//! The single-file format of a restore point: a tar stream cut into pieces that are compressed separately, so that
//! readers decode in parallel and at random. `docs/format.md` is its specification.
//!
//! Reads, writes and checks the bytes of an archive. Must not know where archives are stored, how disks are read, or
//! libvirt.
//!
//! | module | contents |
//! |---|---|
//! | `writer`, `pipeline` | members → tar stream → pieces → compressed in parallel → file |
//! | `reader`, `stream`, `verify` | file → pieces decoded ahead → members; every byte checked |
//! | `sample` | checks a part of the pieces |
//! | `random` | any range of a member |
//! | `codec`, `gzip`, `table` | one compressed piece; the frame of a gzip member; the seek table at the end |
//! | `header`, `names`, `sums` | tar headers; permitted names; `SHA256SUMS` |
//! | `manifest` | `manifest.json` |
//! | `salvage` | what is left of a damaged archive |
//! | `script` | archives of the legacy script |

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
mod sample;
pub mod script;
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

/// Bytes of the tar stream in one piece; only pieces before a cut are shorter.
///
/// Short in unit tests, so that damage across many pieces is tested quickly without optimizations.
pub const PIECE: usize = if cfg!(test) { 128 << 10 } else { FULL_PIECE };

/// With the overhead of a frame or a gzip member, incompressible data still fits into a
/// [`Buffer`](crate::sys::buffer::Buffer).
const FULL_PIECE: usize = (4 << 20) - (32 << 10);

/// Limit of a piece for readers, in bytes of the tar stream.
const MAX_PIECE: usize = 16 << 20;

/// Limit of pieces per archive: 64 TiB of tar stream. Readers need 24 bytes of memory for each.
const MAX_PIECES: usize = 16 << 20;

/// Name of the first member.
pub const MANIFEST: &str = "manifest.json";

/// Name of the last member.
pub const SUMS: &str = "SHA256SUMS";

/// Limit of [`Archive::read`] in bytes.
pub const MAX_SMALL: u64 = 16 << 20;
