//! Builds a [`BlobTable`] from blobs in any order, in bounded memory. Must not choose the name of its file.
//!
//! As many records as fit in memory are sorted and written to an unnamed file, a run. At the end, the runs are merged
//! with existing tables.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::Id;
use super::pack::Entry;
use super::table::{BlobTable, HEADER, MAGIC, MAX_PACKS, RECORD, Raw, encode, renumber};
use crate::sys::durable;

/// Number of records of a run: 24 MiB.
const RUN: usize = 512 << 10;
/// Number of records of a run or table that are read at once during the merge.
const AT_ONCE: u64 = 2048;

/// A table that is being built.
#[derive(Debug)]
pub struct TableWriter {
    dir: PathBuf,
    packs: Vec<Id>,
    numbers: HashMap<Id, u32>,
    records: Vec<Raw>,
    runs: Vec<BlobTable>,
}

impl TableWriter {
    /// A writer with its temporary files in this directory.
    pub fn new(dir: &Path) -> TableWriter {
        TableWriter {
            dir: dir.to_owned(),
            packs: Vec::new(),
            numbers: HashMap::new(),
            records: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Adds a blob.
    pub fn add(&mut self, pack: Id, entry: &Entry) -> io::Result<()> {
        let pack = self.number(pack)?;
        self.records.push(encode(pack, entry));
        if self.records.len() == RUN {
            let run = self.run()?;
            self.runs.push(run);
        }
        Ok(())
    }

    /// Writes the added blobs and those of `tables` to an empty file. Does not sync it.
    pub fn finish(mut self, file: File, tables: &[&BlobTable], indexes: &[Id]) -> io::Result<File> {
        let last = self.run()?;
        let mut sources = Vec::new();
        for table in tables {
            let numbers = table.packs().iter().map(|pack| self.number(*pack)).collect::<io::Result<Vec<u32>>>()?;
            sources.push(Source::new(table, Some(numbers)));
        }
        sources.extend(self.runs.iter().chain([&last]).map(|run| Source::new(run, None)));
        write(file, &mut merge(sources)?, &self.packs, indexes)
    }

    fn number(&mut self, pack: Id) -> io::Result<u32> {
        if let Some(number) = self.numbers.get(&pack) {
            return Ok(*number);
        }
        let number = self.packs.len();
        if number == MAX_PACKS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many packs"));
        }
        self.packs.push(pack);
        self.numbers.insert(pack, number as u32);
        Ok(number as u32)
    }

    /// The records in memory as a table, with our numbers of packs but without their IDs.
    fn run(&mut self) -> io::Result<BlobTable> {
        let mut records = std::mem::take(&mut self.records);
        records.sort_unstable();
        let file = write(nameless(&self.dir)?, &mut records.drain(..).map(Ok), &[], &[])?;
        self.records = records;
        BlobTable::open(file)
    }
}

fn write(
    file: File,
    records: &mut dyn Iterator<Item = io::Result<Raw>>,
    packs: &[Id],
    indexes: &[Id],
) -> io::Result<File> {
    let mut out = BufWriter::with_capacity(256 << 10, &file);
    out.write_all(&[0; HEADER as usize])?;
    let (mut blobs, mut before) = (0_u64, None);
    for record in records {
        let record = record?;
        if before.replace(record) != Some(record) {
            out.write_all(&record)?;
            blobs += 1;
        }
    }
    packs.iter().chain(indexes).try_for_each(|id| out.write_all(id.as_bytes()))?;
    out.seek(io::SeekFrom::Start(0))?;
    out.write_all(MAGIC)?;
    [blobs, packs.len() as u64, indexes.len() as u64]
        .iter()
        .try_for_each(|number| out.write_all(&number.to_le_bytes()))?;
    out.flush()?;
    drop(out);
    Ok(file)
}

/// An unnamed file, which disappears when it is closed.
pub fn nameless(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!("tmp-{}-{:?}", std::process::id(), std::thread::current().id()));
    durable::remove(&path)?;
    let file = durable::create_private(&path)?;
    durable::remove(&path)?;
    Ok(file)
}

/// The sorted records of a table.
struct Source<'a> {
    table: &'a BlobTable,
    /// Our numbers for its packs.
    numbers: Option<Vec<u32>>,
    next: u64,
    window: std::vec::IntoIter<Raw>,
}

impl<'a> Source<'a> {
    fn new(table: &'a BlobTable, numbers: Option<Vec<u32>>) -> Source<'a> {
        Source { table, numbers, next: 0, window: Vec::new().into_iter() }
    }

    fn pop(&mut self) -> io::Result<Option<Raw>> {
        if self.window.len() == 0 {
            let bytes = self.table.records(self.next, AT_ONCE)?;
            self.next += (bytes.len() / RECORD) as u64;
            self.window = bytes.as_chunks().0.to_vec().into_iter();
        }
        let Some(mut record) = self.window.next() else { return Ok(None) };
        self.numbers.as_ref().map_or(Ok(()), |numbers| renumber(&mut record, numbers))?;
        Ok(Some(record))
    }
}

/// All records in order.
fn merge(mut sources: Vec<Source<'_>>) -> io::Result<impl Iterator<Item = io::Result<Raw>>> {
    let mut heads = BinaryHeap::new();
    for (at, source) in sources.iter_mut().enumerate() {
        heads.extend(source.pop()?.map(|record| Reverse((record, at))));
    }
    Ok(std::iter::from_fn(move || {
        let Reverse((record, at)) = heads.pop()?;
        match sources[at].pop() {
            Ok(next) => heads.extend(next.map(|record| Reverse((record, at)))),
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(record))
    }))
}
