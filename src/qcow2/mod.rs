//! Encodes disks as compact, standalone qcow2 streams whose length is known in advance, and reads them back without
//! seeking.
//!
//! Contains the one shape of qcow2 that this program writes, and its reader; of any other qcow2, only what its header
//! refers to ([`Links`]). Must not know where the bytes come from or go, or read the data of any other qcow2 (QEMU
//! does).
//!
//! The shape: version 3, clusters of 64 KiB, 16-bit reference counts, no features, no extensions, no backing file. In
//! this order, each part aligned to a cluster: header, refcount table, refcount blocks, L1 table, the required L2
//! tables, data clusters in guest order. The virtual size and the data extents alone determine every byte of
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

/// Cluster size in bytes, the unit in which data is stored.
pub const CLUSTER: u64 = 1 << 16;
/// Largest virtual size: 1 PiB. QEMU allows 2 PiB with these tables.
pub const MAX_SIZE: u64 = 1 << 50;
/// Limit of data extents, so that a reader needs at most 128 MiB for them.
const MAX_EXTENTS: usize = 1 << 23;
/// 8-byte entries in a cluster of an L1, L2 or refcount table.
const ENTRIES: u64 = CLUSTER / 8;
/// Bytes of the disk mapped by one L2 table: 512 MiB.
const SPAN: u64 = ENTRIES * CLUSTER;
/// 2-byte reference counts in a refcount block.
const COUNTS: u64 = CLUSTER / 2;
/// Flag of an L1 or L2 entry whose cluster has exactly one reference, which is true of all here.
const COPIED: u64 = 1 << 63;
/// QEMU's unit of disk size, in bytes.
const SECTOR: u64 = 512;

/// An error while laying out or reading an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is larger than [`MAX_SIZE`].
    #[error("a virtual size of {size} bytes is more than the {MAX_SIZE} bytes that are supported")]
    Size {
        /// The size, in bytes.
        size: u64,
    },
    /// An extent is empty, outside the disk, or out of order.
    #[error("extent of {length} bytes at {offset} is empty, out of order or outside the disk of {size} bytes")]
    Extent {
        /// First byte of the extent.
        offset: u64,
        /// Length of the extent in bytes.
        length: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// The stream is not a qcow2 image.
    #[error("not a qcow2 image")]
    NotQcow2,
    /// A qcow2 image that kvmbackup would not have written.
    #[error("the qcow2 image has {what}, which kvmbackup never writes")]
    Unsupported {
        /// The unsupported part.
        what: &'static str,
    },
    /// Parts of the image contradict each other.
    #[error("the qcow2 image is damaged: {what}")]
    Damaged {
        /// The contradiction.
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
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Unsupported { .. } | Error::NotQcow2 => {
                Some("Another program changed the image. Read it with qemu-img.".to_owned())
            }
            Error::Damaged { .. } | Error::Truncated => Some("Use another restore point.".to_owned()),
            Error::Size { .. } | Error::Extent { .. } | Error::Read(_) => None,
        }
    }

    /// Converts a read error; an unexpected end means a truncated image.
    fn read(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Truncated,
            _ => Error::Read(error),
        }
    }
}
