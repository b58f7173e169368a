//! Maps the data of a disk whose image is partly unreadable. Must not read data or guess an offset.

use super::header::Header;
use super::{CLUSTER, COPIED, COUNTS, ENTRIES, MAX_EXTENTS, MAX_SIZE, SECTOR, SPAN};
use crate::model::Extent;

/// The mapping of a torn image.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Torn {
    /// Virtual size in bytes.
    pub virtual_size: u64,
    /// Guest extents, ascending, with their offset in the image. Their data may still be unreadable.
    pub placed: Vec<(Extent, u64)>,
    /// Ranges of the disk whose tables are lost; they may have contained data.
    pub unknown: Vec<Extent>,
}

impl Torn {
    /// Reads the readable tables of an image of `length` bytes. `read` fills a buffer from an offset, or returns
    /// `false`; `size` is the size of the disk if the header is lost.
    ///
    /// `None` if the size is unknown. Needs as much memory as a [`Reader`](super::Reader).
    pub fn map(length: u64, size: Option<u64>, mut read: impl FnMut(u64, &mut [u8]) -> bool) -> Option<Torn> {
        let mut cluster = vec![0; CLUSTER as usize];
        let header = read(0, &mut cluster).then(|| Header::decode(&cluster).ok()).flatten();
        let virtual_size = header.map(|header| header.size).or(size)?;
        let virtual_size = virtual_size.checked_next_multiple_of(SECTOR).filter(|&size| size <= MAX_SIZE)?;
        // The length alone determines the refcounts, because every cluster has one.
        let blocks = (length / CLUSTER).div_ceil(COUNTS);
        let l1_offset = (1 + blocks.div_ceil(ENTRIES) + blocks) * CLUSTER;
        let mut torn = Torn { virtual_size, ..Torn::default() };
        let l1_clusters = virtual_size.div_ceil(SPAN).div_ceil(ENTRIES);
        let mut host = l1_offset + l1_clusters * CLUSTER;
        let mut tables = Vec::new();
        for number in 0..l1_clusters {
            let first = number * ENTRIES;
            let ok = read(l1_offset + number * CLUSTER, &mut cluster)
                && entries(&cluster, &mut host, length, |slot, at| tables.push((first + slot, at)));
            if !ok {
                torn.unknown(first * SPAN, ENTRIES * SPAN);
            }
        }
        for (index, at) in tables {
            let mut found = Vec::new();
            let ok = read(at, &mut cluster)
                && entries(&cluster, &mut host, length, |slot, at| found.push((index * SPAN + slot * CLUSTER, at)));
            match ok {
                true => found.into_iter().for_each(|(offset, at)| torn.place(offset, at)),
                false => torn.unknown(index * SPAN, SPAN),
            }
        }
        torn.unknown.sort_by_key(|range| range.offset);
        Some(torn)
    }

    fn unknown(&mut self, offset: u64, length: u64) {
        if offset < self.virtual_size {
            self.unknown.push(Extent { offset, length: length.min(self.virtual_size - offset) });
        }
    }

    fn place(&mut self, offset: u64, host: u64) {
        if offset >= self.virtual_size {
            return;
        }
        let length = CLUSTER.min(self.virtual_size - offset);
        let full = self.placed.len() == MAX_EXTENTS;
        match self.placed.last_mut() {
            Some((last, at)) if last.end() == offset && *at + last.length == host => last.length += length,
            _ if full => self.unknown(offset, length),
            _ => self.placed.push((Extent { offset, length }, host)),
        }
    }
}

/// Visits the set entries of a table; `false` if one is invalid: entries must ascend, be aligned to clusters and be
/// inside the image. `host` is the lower bound of the next entry and is advanced.
fn entries(cluster: &[u8], host: &mut u64, length: u64, mut visit: impl FnMut(u64, u64)) -> bool {
    let mut least = *host;
    let mut found = Vec::new();
    for (slot, bytes) in (0..).zip(cluster.as_chunks::<8>().0) {
        let entry = u64::from_be_bytes(*bytes);
        if entry == 0 {
            continue;
        }
        let at = entry & !COPIED;
        if entry & COPIED == 0 || !at.is_multiple_of(CLUSTER) || at < least || at >= length {
            return false;
        }
        least = at + CLUSTER;
        found.push((slot, at));
    }
    *host = least;
    found.into_iter().for_each(|(slot, at)| visit(slot, at));
    true
}
