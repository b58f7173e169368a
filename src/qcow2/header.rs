//! Encodes and parses the qcow2 header. Must not know the rest of the image.

use super::{CLUSTER, Error, MAX_SIZE, SECTOR};

const MAGIC: u32 = 0x5146_49fb;
const VERSION: u32 = 3;
const CLUSTER_BITS: u32 = CLUSTER.trailing_zeros();
/// Reference counts of 1 << 4 bits.
const REFCOUNT_ORDER: u32 = 4;
const LENGTH: u32 = 104;

/// The variable fields of our headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Virtual size in bytes.
    pub size: u64,
    /// Number of entries in the L1 table.
    pub l1_entries: u32,
    /// Offset of the L1 table in bytes.
    pub l1_offset: u64,
    /// Clusters of the refcount table, which starts at the second cluster.
    pub refcount_clusters: u32,
}

impl Header {
    /// The header. The zeros that follow in its cluster are an empty list of extensions.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH as usize);
        let mut put = |field: &[u8]| bytes.extend_from_slice(field);
        put(&MAGIC.to_be_bytes());
        put(&VERSION.to_be_bytes());
        put(&0u64.to_be_bytes()); // backing file: offset
        put(&0u32.to_be_bytes()); // backing file: length of the name
        put(&CLUSTER_BITS.to_be_bytes());
        put(&self.size.to_be_bytes());
        put(&0u32.to_be_bytes()); // encryption
        put(&self.l1_entries.to_be_bytes());
        put(&self.l1_offset.to_be_bytes());
        put(&CLUSTER.to_be_bytes()); // refcount table: offset
        put(&self.refcount_clusters.to_be_bytes());
        put(&0u32.to_be_bytes()); // internal snapshots: number
        put(&0u64.to_be_bytes()); // internal snapshots: offset
        put(&0u64.to_be_bytes()); // incompatible features
        put(&0u64.to_be_bytes()); // compatible features
        put(&0u64.to_be_bytes()); // autoclear features
        put(&REFCOUNT_ORDER.to_be_bytes());
        put(&LENGTH.to_be_bytes());
        bytes
    }

    /// Parses the first cluster of an image; refuses anything that [`Header::encode`] would not have written.
    pub fn decode(cluster: &[u8]) -> Result<Header, Error> {
        let u32_at = |at: usize| cluster.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        if u32_at(0) != MAGIC {
            return Err(Error::NotQcow2);
        }
        let refuse = |what| Err(Error::Unsupported { what });
        let version3 = u32_at(4) == VERSION;
        match () {
            () if u64_at(8) != 0 => return refuse("a backing file"),
            () if u32_at(32) != 0 => return refuse("encryption"),
            () if !version3 => return refuse("a version other than 3"),
            () if u64_at(72) & 1 << 2 != 0 => return refuse("an external data file"),
            () if u64_at(72) != 0 || u64_at(80) != 0 || u64_at(88) != 0 => return refuse("feature flags"),
            () if u32_at(60) != 0 => return refuse("internal snapshots"),
            () => {}
        }
        let header =
            Header { size: u64_at(24), l1_entries: u32_at(36), l1_offset: u64_at(40), refcount_clusters: u32_at(56) };
        if header.size > MAX_SIZE {
            return Err(Error::Size { size: header.size });
        }
        if !header.size.is_multiple_of(SECTOR) {
            return refuse("a size that is not a multiple of 512");
        }
        let expected = header.encode();
        match cluster.split_at_checked(expected.len()) {
            Some((fields, rest)) if fields == expected && rest.iter().all(|&byte| byte == 0) => Ok(header),
            _ => refuse("unknown header fields or extensions"),
        }
    }
}
