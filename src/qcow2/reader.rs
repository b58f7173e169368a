//! Owns: reading our own qcow2 streams back, from start to end. Must not: trust a byte of them, or seek.

use std::io::{self, BufRead, Read};

use super::header::Header;
use super::{CLUSTER, COPIED, ENTRIES, Error, Layout, MAX_EXTENTS};
use crate::model::Extent;

/// The most bytes that a sink gets at once: what a core's own cache holds while they are hashed and copied.
const CHUNK: u64 = 128 << 10;
/// The flag of an L2 entry whose cluster is compressed.
const COMPRESSED: u64 = 1 << 62;

/// An image whose metadata is read and whose data comes next.
///
/// Needs memory for the image's data extents: at most 128 MiB, usually a few KiB.
pub struct Reader<R> {
    input: R,
    layout: Layout,
}

impl<R: Read> Reader<R> {
    /// Reads and checks the metadata. Reads in clusters; `input` needs no buffer.
    ///
    /// # Errors
    /// [`Error::NotQcow2`], [`Error::Unsupported`], [`Error::Damaged`], [`Error::Truncated`] or [`Error::Read`].
    pub fn new(mut input: R) -> Result<Reader<R>, Error> {
        let mut cluster = vec![0; CLUSTER as usize];
        fill(&mut input, &mut cluster)?;
        let header = Header::decode(&cluster)?;
        // Contents do not depend on refcounts, and those follow from the rest.
        skip(&mut input, header.l1_offset.saturating_sub(CLUSTER))?;

        let l1_clusters = u64::from(header.l1_entries).div_ceil(ENTRIES);
        let l2_offset = l1_clusters
            .checked_mul(CLUSTER)
            .and_then(|bytes| bytes.checked_add(header.l1_offset))
            .filter(|end| end.checked_add(header.size).is_some_and(|end| end < COMPRESSED))
            .ok_or(Error::Damaged { what: "the l1 table lies out of reach" })?;
        let tables = read_l1(&mut input, l1_clusters, l2_offset, header.size.div_ceil(super::SPAN))?;
        let data_offset = l2_offset + tables.len() as u64 * CLUSTER;
        let data = read_l2(&mut input, &tables, data_offset, header.size)?;

        let layout = Layout::new(header.size, &data)?;
        if layout.header() != header || layout.metadata_length() != data_offset {
            return Err(Error::Damaged { what: "the header and the tables differ" });
        }
        Ok(Reader { input, layout })
    }
}

impl<R> Reader<R> {
    /// What the metadata says.
    pub fn into_layout(self) -> Layout {
        self.layout
    }

    /// The guest's disk, in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.layout.virtual_size()
    }

    /// The ranges that [`Reader::copy`] will deliver; the rest of the disk is zeros.
    pub fn data(&self) -> &[Extent] {
        self.layout.data()
    }
}

impl<R: BufRead> Reader<R> {
    /// Gives the data to `sink` by guest offset, ascending, at most 128 KiB at once, and checks that the stream then ends.
    ///
    /// # Errors
    /// The sink's own, or [`Error::Truncated`], [`Error::Damaged`] or [`Error::Read`].
    pub fn copy<E: From<Error>>(mut self, mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        for extent in self.layout.data() {
            let mut offset = extent.offset;
            while offset < extent.end() {
                let bytes = match self.input.fill_buf() {
                    Ok([]) => return Err(Error::Truncated.into()),
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(Error::read(error).into()),
                };
                let count = (bytes.len() as u64).min(extent.end() - offset).min(CHUNK);
                // At most the length of the slice.
                sink(offset, &bytes[..count as usize])?;
                self.input.consume(count as usize);
                offset += count;
            }
        }
        let mut padding = vec![0; self.layout.padding() as usize];
        fill(&mut self.input, &mut padding)?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(Error::Damaged { what: "there is data behind the end of the disk" }.into());
        }
        match io::copy(&mut self.input.take(1), &mut io::sink()).map_err(Error::read)? {
            0 => Ok(()),
            _ => Err(Error::Damaged { what: "there are bytes behind the last cluster" }.into()),
        }
    }
}

/// The indices of the L2 tables, which follow the L1 table one by one.
fn read_l1(input: &mut impl Read, clusters: u64, mut host: u64, entries: u64) -> Result<Vec<u64>, Error> {
    let mut tables = Vec::new();
    for table in 0..clusters {
        each_entry(input, |slot, entry| {
            let index = table * ENTRIES + slot;
            if index >= entries || entry != host | COPIED {
                return Err(Error::Damaged { what: "an l1 entry is wrong" });
            }
            tables.push(index);
            host += CLUSTER;
            Ok(())
        })?;
    }
    Ok(tables)
}

/// The extents of the disk whose clusters follow the L2 tables one by one.
fn read_l2(input: &mut impl Read, tables: &[u64], mut host: u64, size: u64) -> Result<Vec<Extent>, Error> {
    let mut data: Vec<Extent> = Vec::new();
    for table in tables {
        each_entry(input, |slot, entry| {
            let offset = (table * ENTRIES + slot) * CLUSTER;
            if entry & COMPRESSED != 0 {
                return Err(Error::Unsupported { what: "compressed clusters" });
            }
            if offset >= size || entry != host | COPIED {
                return Err(Error::Damaged { what: "an l2 entry is wrong" });
            }
            host += CLUSTER;
            let length = CLUSTER.min(size - offset);
            let full = data.len() == MAX_EXTENTS;
            match data.last_mut() {
                Some(last) if last.end() == offset => last.length += length,
                _ if full => return Err(Error::Damaged { what: "too many extents" }),
                _ => data.push(Extent { offset, length }),
            }
            Ok(())
        })?;
    }
    Ok(data)
}

/// Reads one cluster of a table and visits the entries that are set.
fn each_entry(input: &mut impl Read, mut visit: impl FnMut(u64, u64) -> Result<(), Error>) -> Result<(), Error> {
    let mut cluster = [0; CLUSTER as usize];
    fill(input, &mut cluster)?;
    let (entries, _) = cluster.as_chunks::<8>();
    for (slot, bytes) in (0..).zip(entries) {
        match u64::from_be_bytes(*bytes) {
            0 => {}
            entry => visit(slot, entry)?,
        }
    }
    Ok(())
}

fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), Error> {
    input.read_exact(buffer).map_err(Error::read)
}

fn skip(input: &mut impl Read, count: u64) -> Result<(), Error> {
    match io::copy(&mut input.take(count), &mut io::sink()).map_err(Error::read)? {
        skipped if skipped == count => Ok(()),
        _ => Err(Error::Truncated),
    }
}
