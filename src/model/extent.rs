//! A range of a disk that contains data. Must not know where the range comes from or where it goes.

/// A byte range of a disk that may contain data. Ranges without an extent read as zeros.
///
/// Lists of extents are always sorted by `offset`, disjoint and without empty members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte, from the start of the disk.
    pub offset: u64,
    /// Length in bytes; never 0 in a list.
    pub length: u64,
}

impl Extent {
    /// The first byte after the range.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}
