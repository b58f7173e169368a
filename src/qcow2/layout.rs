//! Computes the layout of an image and its metadata. Must not touch the data.

use std::io::{self, BufWriter, Write};

use super::header::Header;
use super::{CLUSTER, COPIED, COUNTS, ENTRIES, Error, MAX_EXTENTS, MAX_SIZE, SECTOR, SPAN};
use crate::model::Extent;

/// The layout of one image, determined by the virtual size and the data extents alone.
///
/// An image consists of [`Layout::write_metadata`], then the bytes of [`Layout::data`] in order, then
/// [`Layout::padding`] zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    size: u64,
    data: Vec<Extent>,
    data_clusters: u64,
    l2_tables: u64,
    refcount_table: u64,
    refcount_blocks: u64,
}

impl Layout {
    /// Lays out a disk of `virtual_size` bytes, of which only `extents` may contain nonzero bytes.
    ///
    /// Extents are rounded out to clusters and merged; after 8 Mi separate ones the rest becomes one extent. A size
    /// that is no multiple of 512 is rounded up, like `qemu-img convert` does for a raw file; QEMU would round it
    /// down in the header and lose the last bytes.
    ///
    /// # Errors
    /// [`Error::Size`] above [`super::MAX_SIZE`]; [`Error::Extent`] for a list that is not sorted, disjoint and
    /// inside the disk.
    pub fn new(virtual_size: u64, extents: &[Extent]) -> Result<Layout, Error> {
        Layout::of_clusters(virtual_size, whole_clusters(virtual_size, extents)?)
    }

    /// The same for extents returned by [`whole_clusters`].
    ///
    /// # Errors
    /// [`Error::Extent`] for other extents.
    pub fn of_clusters(virtual_size: u64, data: Vec<Extent>) -> Result<Layout, Error> {
        let is_whole = |extent: &Extent| {
            let end = extent.end();
            extent.offset.is_multiple_of(CLUSTER)
                && extent.length > 0
                && (end.is_multiple_of(CLUSTER) || end == virtual_size)
        };
        let mut at = 0;
        for extent in &data {
            if !is_whole(extent) || extent.offset < at || extent.end() > virtual_size {
                let Extent { offset, length } = *extent;
                return Err(Error::Extent { offset, length, size: virtual_size });
            }
            at = extent.end();
        }
        let data_clusters = data.iter().map(|extent| extent.length.div_ceil(CLUSTER)).sum();
        let mut layout = Layout {
            size: virtual_size.next_multiple_of(SECTOR),
            l2_tables: l2_indices(&data).count() as u64,
            data,
            data_clusters,
            refcount_table: 1,
            refcount_blocks: 1,
        };
        // Refcounts include their own clusters, so grow them until they cover the whole image.
        loop {
            let blocks = layout.clusters().div_ceil(COUNTS);
            let table = blocks.div_ceil(ENTRIES);
            if (table, blocks) == (layout.refcount_table, layout.refcount_blocks) {
                return Ok(layout);
            }
            (layout.refcount_table, layout.refcount_blocks) = (table, blocks);
        }
    }

    /// Size in the header, in bytes: that of the disk, rounded up to 512.
    pub fn virtual_size(&self) -> u64 {
        self.size
    }

    /// Length of the whole image in bytes.
    pub fn length(&self) -> u64 {
        self.clusters() * CLUSTER
    }

    /// Length of the metadata before the data, in bytes.
    pub fn metadata_length(&self) -> u64 {
        self.l2_offset() + self.l2_tables * CLUSTER
    }

    /// The ranges to read from the disk, in this order: whole clusters, clipped to the disk.
    pub fn data(&self) -> &[Extent] {
        &self.data
    }

    /// Zero bytes to write after the data, for the part of the last cluster that is beyond the disk.
    pub fn padding(&self) -> u64 {
        let stored: u64 = self.data.iter().map(|extent| extent.length).sum();
        self.data_clusters * CLUSTER - stored
    }

    /// Writes everything before the data: exactly [`Layout::metadata_length`] bytes, in pieces of at most 64 KiB.
    pub fn write_metadata(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(CLUSTER as usize, out);
        self.write_header(&mut out)?;
        self.write_refcounts(&mut out)?;
        self.write_l1(&mut out)?;
        self.write_l2(&mut out)?;
        out.flush()
    }

    pub(super) fn header(&self) -> Header {
        Header {
            size: self.size,
            // At most 2 Mi entries and a few clusters, because the size is at most `MAX_SIZE`.
            l1_entries: self.l1_entries() as u32,
            l1_offset: self.l1_offset(),
            refcount_clusters: self.refcount_table as u32,
        }
    }

    fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        let header = self.header().encode();
        out.write_all(&header)?;
        zeros(out, CLUSTER - header.len() as u64)
    }

    /// The refcount table and its blocks; every cluster has one reference.
    fn write_refcounts(&self, out: &mut impl Write) -> io::Result<()> {
        let first = (1 + self.refcount_table) * CLUSTER;
        for block in 0..self.refcount_blocks {
            out.write_all(&(first + block * CLUSTER).to_be_bytes())?;
        }
        zeros(out, self.refcount_table * CLUSTER - self.refcount_blocks * 8)?;
        let ones = [0, 1].repeat(COUNTS as usize);
        let mut left = self.clusters() * 2;
        while left > 0 {
            let piece = left.min(CLUSTER);
            out.write_all(&ones[..piece as usize])?;
            left -= piece;
        }
        zeros(out, self.refcount_blocks * CLUSTER - self.clusters() * 2)
    }

    fn write_l1(&self, out: &mut impl Write) -> io::Result<()> {
        let mut next = 0;
        for (index, host) in l2_indices(&self.data).zip((self.l2_offset()..).step_by(CLUSTER as usize)) {
            zeros(out, (index - next) * 8)?;
            out.write_all(&(host | COPIED).to_be_bytes())?;
            next = index + 1;
        }
        zeros(out, self.l1_clusters() * CLUSTER - next * 8)
    }

    fn write_l2(&self, out: &mut impl Write) -> io::Result<()> {
        let mut host = self.metadata_length();
        // The guest cluster whose entry is next, if its table is written at all.
        let mut next = 0;
        for extent in &self.data {
            for cluster in extent.offset / CLUSTER..extent.end().div_ceil(CLUSTER) {
                if cluster / ENTRIES != next / ENTRIES {
                    zeros(out, (next.next_multiple_of(ENTRIES) - next) * 8)?;
                    next = cluster / ENTRIES * ENTRIES;
                }
                zeros(out, (cluster - next) * 8)?;
                out.write_all(&(host | COPIED).to_be_bytes())?;
                host += CLUSTER;
                next = cluster + 1;
            }
        }
        zeros(out, (next.next_multiple_of(ENTRIES) - next) * 8)
    }

    fn clusters(&self) -> u64 {
        self.l1_offset() / CLUSTER + self.l1_clusters() + self.l2_tables + self.data_clusters
    }

    fn l1_offset(&self) -> u64 {
        (1 + self.refcount_table + self.refcount_blocks) * CLUSTER
    }

    fn l2_offset(&self) -> u64 {
        self.l1_offset() + self.l1_clusters() * CLUSTER
    }

    /// At least one, as in QEMU's images of empty disks.
    fn l1_entries(&self) -> u64 {
        self.size.div_ceil(SPAN).max(1)
    }

    fn l1_clusters(&self) -> u64 {
        self.l1_entries().div_ceil(ENTRIES)
    }
}

/// Checks the extents, rounds them out to clusters, merges adjacent ones and clips the last one to the disk.
fn round_out(size: u64, extents: &[Extent]) -> Result<Vec<Extent>, Error> {
    let mut rounded: Vec<Extent> = Vec::new();
    let mut behind = 0;
    for &Extent { offset, length } in extents {
        let end = offset
            .checked_add(length)
            .filter(|&end| length > 0 && offset >= behind && end <= size)
            .ok_or(Error::Extent { offset, length, size })?;
        behind = end;
        let start = offset / CLUSTER * CLUSTER;
        let stop = end.next_multiple_of(CLUSTER).min(size);
        let full = rounded.len() == MAX_EXTENTS;
        match rounded.last_mut() {
            Some(last) if start <= last.end() || full => last.length = stop - last.offset,
            _ => rounded.push(Extent { offset: start, length: stop - start }),
        }
    }
    Ok(rounded)
}

/// Rounds the extents of a disk out to whole clusters, clipped to the disk, and merges adjacent ones.
///
/// # Errors
/// As for [`Layout::new`].
pub fn whole_clusters(virtual_size: u64, extents: &[Extent]) -> Result<Vec<Extent>, Error> {
    if virtual_size > MAX_SIZE {
        return Err(Error::Size { size: virtual_size });
    }
    round_out(virtual_size, extents)
}

/// Indices of the L2 tables that these extents need, ascending.
fn l2_indices(data: &[Extent]) -> impl Iterator<Item = u64> {
    let mut next = 0;
    data.iter().flat_map(move |extent| {
        let first = next.max(extent.offset / SPAN);
        next = (extent.end() - 1) / SPAN + 1;
        first..next
    })
}

fn zeros(out: &mut impl Write, mut count: u64) -> io::Result<()> {
    static ZEROS: [u8; 4096] = [0; 4096];
    while count > 0 {
        let piece = count.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..piece as usize])?;
        count -= piece;
    }
    Ok(())
}
