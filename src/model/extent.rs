//! Owns: a range of a disk that holds data. Must not: know where the range came from or where it goes.

/// A byte range of a disk that may hold data; what no extent covers reads as zeros.
///
/// Lists of extents are always sorted by `offset`, disjoint and without empty members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte, from the start of the disk.
    pub offset: u64,
    /// Bytes; never 0 in a list.
    pub length: u64,
}

impl Extent {
    /// The first byte behind the range.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}
