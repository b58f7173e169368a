//! Disks as compact, flat qcow2 streams: written with a length known beforehand, read back without seeking.
//!
//! Owns: the one shape of qcow2 that this program writes, and its reader; of any other qcow2, only what its header points
//! to ([`Links`]). Must not: know where the bytes come from or go, or read the data of any other qcow2 (QEMU does).
//!
//! The shape: version 3, clusters of 64 KiB, 16-bit reference counts, no features, no extensions, no backing file. In
//! this order, each part on a cluster's boundary: header, refcount table, refcount blocks, L1 table, the L2 tables that
//! are needed, data clusters in the guest's order. So the virtual size and the data extents alone decide every byte of
//! metadata. The format itself: QEMU's `docs/interop/qcow2.txt`.

mod header;
mod layout;
mod links;
mod reader;
mod salvage;
#[cfg(test)]
mod tests;

use std::io;

pub use layout::{Layout, whole_clusters};
pub use links::Links;
pub use reader::Reader;
pub use salvage::Torn;

/// Bytes of a cluster: the unit in which data is stored.
pub const CLUSTER: u64 = 1 << 16;
/// The largest virtual size, in bytes: 1 PiB. QEMU itself allows 2 PiB with these tables.
pub const MAX_SIZE: u64 = 1 << 50;
/// The most data extents an image has, so that its reader needs at most 128 MiB for them.
const MAX_EXTENTS: usize = 1 << 23;
/// Entries of 8 bytes in a cluster: of an L2 table, and per cluster of the L1 and refcount tables.
const ENTRIES: u64 = CLUSTER / 8;
/// Bytes of the disk that one L2 table maps: 512 MiB.
const SPAN: u64 = ENTRIES * CLUSTER;
/// Reference counts of 2 bytes in a refcount block.
const COUNTS: u64 = CLUSTER / 2;
/// The flag of an L1 or L2 entry whose cluster has exactly one reference; here all have.
const COPIED: u64 = 1 << 63;
/// QEMU's unit of a disk's size.
const SECTOR: u64 = 512;

/// Why an image cannot be laid out or read back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is larger than [`MAX_SIZE`].
    #[error("a virtual size of {size} bytes is more than the {MAX_SIZE} bytes that are supported")]
    Size {
        /// The size, in bytes.
        size: u64,
    },
    /// An extent is empty, outside the disk, or not behind the one before it.
    #[error("extent of {length} bytes at {offset} is empty, out of order or outside the disk of {size} bytes")]
    Extent {
        /// Its first byte.
        offset: u64,
        /// Its bytes.
        length: u64,
        /// The disk's bytes.
        size: u64,
    },
    /// The stream is not a qcow2 image.
    #[error("not a qcow2 image")]
    NotQcow2,
    /// A qcow2 image, but not of the shape that this program writes.
    #[error("the qcow2 image has {what}, which kvmbackup never writes")]
    Unsupported {
        /// What it has.
        what: &'static str,
    },
    /// A part of the image contradicts another.
    #[error("the qcow2 image is damaged: {what}")]
    Damaged {
        /// Which.
        what: &'static str,
    },
    /// The stream ends before the image does.
    #[error("the qcow2 image is truncated")]
    Truncated,
    /// The stream cannot be read.
    #[error("cannot read the qcow2 image")]
    Read(#[source] io::Error),
}

impl Error {
    /// What the operator can do, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Unsupported { .. } | Error::NotQcow2 => {
                Some("Another program changed the image. Read it with qemu-img.".to_owned())
            }
            Error::Damaged { .. } | Error::Truncated => Some("Use another restore point.".to_owned()),
            Error::Size { .. } | Error::Extent { .. } | Error::Read(_) => None,
        }
    }

    /// A failed read; the end of the stream is no matter of the system.
    fn read(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Truncated,
            _ => Error::Read(error),
        }
    }
}
