//! Owns: what can be read of a damaged restore point, brought to a folder, with a report of what is not. Must not: give a file that
//! is not whole the name of a good one, or touch libvirt.
//!
//! The store finds the pieces. A disk becomes an image of the shape that this program writes, whatever its member
//! is: what cannot be read of it reads as zeros, and is in the report by the guest's own addresses.

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
use crate::store::{self, Remains, Salvage, Store, Trust};
use crate::sys::patient_file::PatientFile;
use crate::sys::signals::Cancel;

mod disk;
mod naming;
mod stream;

use naming::Naming;

/// The report, beside what was salvaged.
pub const REPORT: &str = "salvage.json";
/// What the name of a file has that is not whole.
const SALVAGED: &str = ".salvaged";
/// The most damaged places that are reported.
const DAMAGES: usize = 1000;

/// What was salvaged, and what was not.
#[derive(Debug, Clone, Serialize)]
pub struct Salvaged {
    /// Version of this structure.
    pub schema: u32,
    /// The domain.
    pub domain: String,
    /// The restore point.
    pub point: PointId,
    /// The archive.
    pub archive: PathBuf,
    /// The damaged places of the archive, for people.
    pub damages: Vec<String>,
    /// What was found in it, in order.
    pub files: Vec<Part>,
    /// Members that it should have, and of which nothing was found.
    pub missing: Vec<String>,
}

/// One member, or what has lost its name.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// Its name; `None` where that is lost.
    pub member: Option<String>,
    /// Where it is now, by its name in the folder; `None` if nothing of it could be read.
    pub files: Vec<PathBuf>,
    /// How far it can be trusted.
    pub state: State,
    /// Its bytes, lost ones included.
    pub bytes: u64,
    /// What of the member is lost, by offset in it.
    pub lost: Vec<Range>,
    /// Of a disk: what of it is lost, as the guest sees it.
    pub disk: Option<Disk>,
}

/// How far a file can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A checksum says that it is what was saved.
    Whole,
    /// Nothing says whether it is.
    Unchecked,
    /// It is not, and nothing says where.
    Wrong,
    /// Parts of it are lost.
    Torn,
}

/// A disk.
#[derive(Debug, Clone, Serialize)]
pub struct Disk {
    /// The guest's name for it.
    pub target: String,
    /// Its size, in bytes; 0 when nothing tells it, and there is no image then.
    pub virtual_bytes: u64,
    /// What cannot be read and reads as zeros now, by the guest's addresses; ascending.
    pub unreadable: Vec<Range>,
}

/// Bytes of a member or a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The first.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl From<Extent> for Range {
    fn from(extent: Extent) -> Range {
        Range { offset: extent.offset, length: extent.length }
    }
}

impl Salvaged {
    /// Whether nothing is lost at all: a plain restore does as well.
    pub fn is_whole(&self) -> bool {
        let whole = |part: &Part| part.state == State::Whole;
        self.damages.is_empty() && self.missing.is_empty() && self.files.iter().all(whole)
    }
}

/// Salvages a restore point into a folder; nothing in it is replaced.
///
/// # Errors
/// After any error, nothing is left. That parts are lost is no error.
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
    let found = store.salvage(&point, cancel);
    work.go_on()?;
    match found? {
        Some(found) => pieces(&work, &found, to, &mut staging, &mut salvaged)?,
        None => stream::salvage(&work, &store.open(&point, cancel)?, to, &mut staging, &mut salvaged)?,
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

/// Makes the folder, if its file system has room for what can be read.
fn expect_room(to: &Path, wanted: u64, staging: &mut Staging) -> Result<(), Error> {
    // What is in the folder is looked at, not what it lies in.
    let inside = to.join(REPORT);
    staging.call("access", to, move || {
        let (folder, _) = nearest_folder(&inside)?;
        expect_free(&folder, wanted)
    })?;
    staging.folder(to, PRIVATE)
}

/// The disk whose member has this name.
fn disk_target(member: &str) -> Option<&str> {
    let target = member.strip_prefix("disks/")?.strip_suffix(".qcow2")?;
    is_plain(target).then_some(target)
}

/// Any member but a disk, and what has lost its name.
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

/// Where it is salvaged to.
struct Folder<'a> {
    to: &'a Path,
    staging: &'a mut Staging,
    naming: Naming,
}

impl Folder<'_> {
    /// Begins a file, with the folders that its name has. It has the wanted name and ending, unless these would do harm.
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

/// What can be read of a member, each byte in its place; the file ends with the last of them.
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

/// What was readable a moment ago must still be: else zeros would stand for it unsaid.
fn expect_lost(work: &Work<'_>, salvage: &Salvage, remains: &Remains, at: u64) -> Result<(), Error> {
    if remains.lost.iter().any(|lost| lost.offset <= at && at < lost.end()) {
        return Ok(());
    }
    salvage.expect_answers().map_err(store::Error::archive(work.archive))?;
    Err(Error::suspect(work.archive, "it changed while being read"))
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
