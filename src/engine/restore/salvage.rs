//! Salvages the readable parts of a damaged restore point into a directory, with a report of what is lost. Must not
//! give an incomplete file the name of a good one, or touch libvirt.
//!
//! The store finds the pieces. A disk becomes an image of the shape that this program writes, regardless of its
//! member: unreadable ranges read as zeros and are in the report by guest address.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::folders;
use super::room::{expect_free, nearest_folder};
use super::sparse::{Kind, Output};
use super::staging::{PRIVATE, Rights, Staging};
use super::work::Work;
use crate::engine::points::{self, When};
use crate::engine::{Error, Monitor};
use crate::model::is_plain;
use crate::model::{DomainOutcome, Extent, PointId};
use crate::store::{self, Left, Remains, Salvage, Store, Trust};
use crate::sys::patient_file::PatientFile;
use crate::sys::signals::Cancel;

mod blobs;
mod disk;
mod naming;
mod stream;

use naming::Naming;

/// File name of the report.
pub const REPORT: &str = "salvage.json";
/// Part of the name of an incomplete file.
const SALVAGED: &str = ".salvaged";
/// Most damaged ranges that are reported.
const DAMAGES: usize = 1000;

/// The result of a salvage: what was read and what is lost.
#[derive(Debug, Clone, Serialize)]
pub struct Salvaged {
    /// Version of the report.
    pub schema: u32,
    /// Name of the domain.
    pub domain: String,
    /// Its restore point.
    pub point: PointId,
    /// Path of the archive.
    pub archive: PathBuf,
    /// Damaged ranges of the archive, as text.
    pub damages: Vec<String>,
    /// Members found, in order.
    pub files: Vec<Part>,
    /// Expected members of which nothing was found.
    pub missing: Vec<String>,
}

/// One member, or data whose name is lost.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// Member name; `None` if it is lost.
    pub member: Option<String>,
    /// Files in the destination; empty if nothing was readable.
    pub files: Vec<PathBuf>,
    /// How far it can be trusted.
    pub state: State,
    /// Length in bytes, including lost ones.
    pub bytes: u64,
    /// Lost ranges, by offset in the member.
    pub lost: Vec<Range>,
    /// For a disk: lost ranges, as the guest sees them.
    pub disk: Option<Disk>,
}

/// How far a file can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Confirmed by a checksum.
    Whole,
    /// Complete, but no checksum covers it.
    Unchecked,
    /// Its checksum does not match; the damaged range is unknown.
    Wrong,
    /// Parts of it are lost.
    Torn,
}

/// A salvaged disk.
#[derive(Debug, Clone, Serialize)]
pub struct Disk {
    /// Target name, such as `vda`.
    pub target: String,
    /// Virtual size in bytes; 0 if unknown, in which case no image was written.
    pub virtual_bytes: u64,
    /// Unreadable ranges, which read as zeros; ascending guest addresses.
    pub unreadable: Vec<Range>,
}

/// A range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl From<Extent> for Range {
    fn from(extent: Extent) -> Range {
        Range { offset: extent.offset, length: extent.length }
    }
}

impl Salvaged {
    /// Whether nothing is lost, so that a normal restore would succeed.
    pub fn is_whole(&self) -> bool {
        let whole = |part: &Part| part.state == State::Whole;
        self.damages.is_empty() && self.missing.is_empty() && self.files.iter().all(whole)
    }
}

/// Salvages a restore point into a directory; existing files are not replaced.
///
/// # Errors
/// After an error, nothing is left. Lost parts are not an error.
pub fn salvage(
    (domain, when): (&str, When),
    to: &Path,
    store: &Store,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<Salvaged, Error> {
    let point = points::find(store, domain, when)?;
    let work = Work { archive: point.location(), patience: store.patience(), domain, monitor, cancel };
    monitor.stage(domain, "salvage");
    let mut staging = Staging::new(false, &store.patience().apart());
    folders::expect_trusted(to, &staging)?;
    let mut salvaged = Salvaged {
        schema: 1,
        domain: point.domain.clone(),
        point: point.id,
        archive: point.location().to_owned(),
        damages: Vec::new(),
        files: Vec::new(),
        missing: Vec::new(),
    };
    let found = store.salvage(&point, cancel, &mut |bytes| work.advance(bytes));
    work.go_on()?;
    match found? {
        Left::Archive(found) => pieces(&work, &found, to, &mut staging, &mut salvaged)?,
        Left::Snapshot(found) => blobs::salvage(&work, &found, to, &mut staging, &mut salvaged)?,
        Left::Stream => stream::salvage(&work, &store.open(&point, cancel)?, to, &mut staging, &mut salvaged)?,
    }
    let path = to.join(REPORT);
    let json = serde_json::to_vec_pretty(&salvaged).map_err(Error::Json)?;
    staging
        .create(&path, Rights::Private)?
        .with(move |mut file| file.write_all(&json))
        .map_err(Error::file("write", &path))?;
    work.go_on()?;
    staging.place()?;
    staging.keep();
    monitor.done(&DomainOutcome::new(domain, None));
    Ok(salvaged)
}

fn pieces(
    work: &Work<'_>,
    salvage: &Salvage,
    to: &Path,
    staging: &mut Staging,
    salvaged: &mut Salvaged,
) -> Result<(), Error> {
    let damages = salvage.damages();
    let told = damages.iter().take(DAMAGES);
    salvaged.damages =
        told.map(|damage| format!("{}: {} bytes at byte {}", damage.what, damage.length, damage.offset)).collect();
    if damages.len() > DAMAGES {
        salvaged.damages.push(format!("and {} more damaged ranges", damages.len() - DAMAGES));
    }
    salvaged.missing = salvage.missing();
    let readable = |remains: &Remains| remains.length - remains.lost.iter().map(|lost| lost.length).sum::<u64>();
    expect_room(to, salvage.remains().iter().map(readable).sum(), staging)?;
    let mut folder = Folder { to, staging, naming: Naming::new() };
    for (number, remains) in salvage.remains().iter().enumerate() {
        work.go_on()?;
        let part = match remains.name.as_deref().and_then(disk_target) {
            Some(target) => disk::salvage(work, salvage, remains, target, &mut folder)?,
            None => file(work, salvage, remains, number, &mut folder)?,
        };
        salvaged.files.push(part);
    }
    Ok(salvage.expect_answers().map_err(store::Error::archive(work.archive))?)
}

/// Creates the directory if its file system has room for the readable bytes.
fn expect_room(to: &Path, wanted: u64, staging: &mut Staging) -> Result<(), Error> {
    // A path inside the directory, so that the directory itself is checked if it exists, not its parent.
    let inside = to.join(REPORT);
    staging.call("access", to, move || {
        let (folder, _) = nearest_folder(&inside)?;
        expect_free(&folder, wanted)
    })?;
    staging.folder(to, PRIVATE)
}

/// The target of the disk with this member name.
fn disk_target(member: &str) -> Option<&str> {
    let target = member.strip_prefix("disks/")?.strip_suffix(".qcow2")?;
    is_plain(target).then_some(target)
}

/// Salvages a member that is not a disk, or data whose name is lost.
fn file(
    work: &Work<'_>,
    salvage: &Salvage,
    remains: &Remains,
    number: usize,
    folder: &mut Folder<'_>,
) -> Result<Part, Error> {
    let state = State::from(salvage.trust(remains));
    let mut part = Part {
        member: remains.name.clone(),
        files: Vec::new(),
        state,
        bytes: remains.length,
        lost: remains.lost.iter().copied().map(Range::from).collect(),
        disk: None,
    };
    let lost: u64 = remains.lost.iter().map(|lost| lost.length).sum();
    if lost < remains.length || remains.length == 0 {
        let plain = remains.name.clone().unwrap_or_else(|| format!("unnamed-{number}"));
        let is_good = state == State::Whole && remains.name.is_some();
        let (name, out) = folder.create(&plain, if is_good { "" } else { SALVAGED })?;
        raw(work, salvage, remains, &out, &folder.to.join(&name))?;
        part.files.push(name);
    }
    Ok(part)
}

/// The destination.
struct Folder<'a> {
    to: &'a Path,
    staging: &'a mut Staging,
    naming: Naming,
}

impl Folder<'_> {
    /// Creates a file and the directories in its name. It gets the wanted name unless that is unsafe or taken.
    fn create(&mut self, wanted: &str, ending: &str) -> Result<(PathBuf, Arc<PatientFile>), Error> {
        let name = self.naming.file(wanted, ending);
        let mut folder = self.to.to_owned();
        for part in name.parent().unwrap_or(Path::new("")).components() {
            folder.push(part);
            self.staging.folder_within(&folder, PRIVATE)?;
        }
        let file = self.staging.create(&self.to.join(&name), Rights::Private)?;
        Ok((name, file))
    }
}

/// Writes the readable bytes of a member at their offsets; the file ends after the last of them.
fn raw(work: &Work<'_>, salvage: &Salvage, remains: &Remains, out: &PatientFile, path: &Path) -> Result<(), Error> {
    let failed = Error::file("write", path);
    let mut output = Output::start(out, Kind::NewFile).map_err(&failed)?;
    let mut end = 0;
    let all = Extent { offset: 0, length: remains.length };
    salvage.each_in(remains, all, |at, bytes| {
        work.go_on()?;
        match bytes {
            Some(bytes) => {
                end = at + bytes.len() as u64;
                output.take(at, bytes).map_err(&failed)
            }
            None => expect_lost(work, salvage, remains, at),
        }
    })?;
    output.finish().and_then(|()| out.with(move |file| file.set_len(end))).map_err(&failed)
}

/// Data that was readable before must still be; otherwise it would silently become zeros.
fn expect_lost(work: &Work<'_>, salvage: &Salvage, remains: &Remains, at: u64) -> Result<(), Error> {
    if remains.lost.iter().any(|lost| lost.offset <= at && at < lost.end()) {
        return Ok(());
    }
    salvage.expect_answers().map_err(store::Error::archive(work.archive))?;
    Err(Error::suspect(work.archive, "changed while being read"))
}

impl From<Trust> for State {
    fn from(trust: Trust) -> State {
        match trust {
            Trust::Whole => State::Whole,
            Trust::Unchecked => State::Unchecked,
            Trust::Wrong => State::Wrong,
            Trust::Torn => State::Torn,
        }
    }
}
