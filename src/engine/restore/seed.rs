//! Owns: what an archive of the seed script holds, brought to files as it is. Must not: believe anything of it before its
//! last byte, where its checksum is: it is read once to look, and once to write.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::plan::{How, Plan, Write};
use super::saved::{Saved, SavedDisk};
use super::sparse::{Kind, Output};
use super::staging::Staging;
use super::work::Work;
use super::{foreign, names};
use crate::archive::seed::{Role, Seed, SeedMember};
use crate::engine::Error;
use crate::hypervisor::domain_xml;
use crate::model::{Disk, Domain, DomainRef, DomainState, DomainXml, Format, Source};
use crate::store::Point;
use crate::sys::patient_file::PatientFile;

/// Bytes read at once.
const BUFFER: usize = 1 << 20;
/// The longest definition that is read; libvirt sends no longer one.
const MAX_XML: u64 = 4 << 20;

/// What one reading of the whole archive showed.
pub struct Survey {
    members: Vec<SeedMember>,
    live: Option<String>,
    inactive: Option<String>,
    migratable: Option<String>,
    /// The first bytes of each image, by member.
    starts: BTreeMap<String, Vec<u8>>,
}

/// Reads all of it, and so checks its checksum; `advance` hears of every part of an image.
pub fn survey(seed: &Seed, work: &Work<'_>, advance: &dyn Fn(u64)) -> Result<Survey, Error> {
    let mut survey =
        Survey { members: Vec::new(), live: None, inactive: None, migratable: None, starts: BTreeMap::new() };
    let suspect = |what: String| Error::Suspect { path: work.archive.to_owned(), what };
    each(seed, work, |member, contents| {
        if survey.members.iter().any(|other| other.name == member.name) {
            return Err(suspect(format!("member {} is there twice", member.name)));
        }
        survey.members.push(member.clone());
        let mut text = Vec::new();
        if member.role != Role::Image {
            if member.length > MAX_XML {
                return Err(suspect(format!("member {} is too long for a definition", member.name)));
            }
            contents.take(MAX_XML).read_to_end(&mut text).map_err(|error| work.read_error(error))?;
        }
        let text = || String::from_utf8(text).map_err(|_| suspect(format!("member {} is not UTF-8", member.name)));
        match member.role {
            Role::Live => survey.live = Some(text()?),
            Role::Inactive => survey.inactive = Some(text()?),
            Role::Migratable => survey.migratable = Some(text()?),
            Role::Image => {
                let mut start = Vec::new();
                pour(work, contents, |bytes| {
                    start.extend_from_slice(&bytes[..bytes.len().min(foreign::HEADER - start.len())]);
                    advance(bytes.len() as u64);
                    Ok(())
                })?;
                survey.starts.insert(member.name.clone(), start);
            }
        }
        Ok(())
    })?;
    if survey.members.is_empty() {
        return Err(suspect("it holds nothing".to_owned()));
    }
    Ok(survey)
}

/// That one, and after it the one for other hosts, if it is there.
pub fn xmls(survey: &Survey, point: &Point) -> Result<Vec<String>, Error> {
    Ok([xml(survey, point)?].into_iter().chain(survey.migratable.clone()).collect())
}

/// The definition that is restored.
pub fn xml(survey: &Survey, point: &Point) -> Result<String, Error> {
    let xml = survey.inactive.as_ref().or(survey.live.as_ref());
    xml.cloned().ok_or_else(|| Error::Suspect { path: point.path.clone(), what: "it holds no definition".to_owned() })
}

/// What it holds. An image belongs to the disk whose file had its name: the script kept nothing else of the path.
pub fn saved(survey: &Survey, point: &Point) -> Result<Saved, Error> {
    let described = xml(survey, point).ok().and_then(|xml| describe(&xml));
    let disks = described.as_ref().map_or(&[][..], |domain| &domain.disks);
    let mut skipped = BTreeMap::new();
    let mut saved = Vec::new();
    for member in survey.members.iter().filter(|member| member.role == Role::Image) {
        let name = member.file_name();
        if !names::is_plain(name) {
            let what = format!("an image has the name {name:?}");
            return Err(Error::Suspect { path: point.path.clone(), what });
        }
        let owners: Vec<&Disk> = disks.iter().filter(|disk| file_name_of(disk) == Some(name)).collect();
        saved.push(match owners[..] {
            [disk] => image(member, &disk.target, disk.image.source.clone(), disk.image.format.clone()),
            _ => image(member, name, Source::File(PathBuf::from(name)), Format::Other("unknown".to_owned())),
        });
        if owners.len() > 1 {
            let reason = format!("several disks had the file name {name}, and the script saved one of them");
            skipped.extend(owners.iter().map(|disk| (disk.target.clone(), reason.clone())));
        }
    }
    let documents = survey.members.iter().filter(|member| member.role != Role::Image);
    let uuid = described.as_ref().map_or(Uuid::nil(), |domain| domain.id.uuid);
    Ok(Saved {
        archive: point.path.clone(),
        domain: DomainRef { name: point.domain.clone(), uuid },
        disks: saved,
        skipped,
        not_saved: Vec::new(),
        nvram: None,
        boot: Vec::new(),
        tpm: Vec::new(),
        tpm_missing: None,
        documents: documents.map(|member| (member.name.clone(), member.file_name().to_owned())).collect(),
        lengths: survey.members.iter().map(|member| (member.name.clone(), member.length)).collect(),
    })
}

/// The images that would be refused after they were written, as far as their first bytes tell.
pub fn refused_images(survey: &Survey, saved: &Saved) -> Vec<Error> {
    let images = saved.disks.iter().filter(|disk| disk.format == Format::Qcow2);
    let start = |member: &str| survey.starts.get(member).map_or(&[][..], Vec::as_slice);
    let refused =
        images.filter_map(|disk| foreign::expect_alone(start(&disk.member), &saved.archive, &disk.member).err());
    refused.collect()
}

fn image(member: &SeedMember, target: &str, source: Source, format: Format) -> SavedDisk {
    SavedDisk {
        target: target.to_owned(),
        member: member.name.clone(),
        source,
        format,
        virtual_bytes: None,
        owner: None,
        encrypted: false,
    }
}

fn file_name_of(disk: &Disk) -> Option<&str> {
    disk.image.source.path().and_then(Path::file_name).and_then(|name| name.to_str())
}

/// `None` for a definition that cannot be read: its images are restored to files all the same.
fn describe(xml: &str) -> Option<Domain> {
    let xml = DomainXml { live: xml.to_owned(), inactive: xml.to_owned(), migratable: xml.to_owned() };
    domain_xml::read(xml, DomainState::Off, true).ok().map(|described| described.domain)
}

/// Writes what the plan wants, in one pass, and checks the images before they get their names.
pub fn write(work: &Work<'_>, seed: &Seed, plan: &Plan, staging: &mut Staging) -> Result<(), Error> {
    let wanted: BTreeMap<&str, &Write> = plan.writes.iter().map(|write| (write.member.as_str(), write)).collect();
    let mut found = 0;
    each(seed, work, |member, contents| {
        let Some(write) = wanted.get(member.name.as_str()) else { return pour(work, contents, |_| Ok(())) };
        found += 1;
        copy(work, contents, &write.to, &*staging.create(&write.to, write.rights)?)
    })?;
    if found != wanted.len() {
        let what = "it changed while it was read".to_owned();
        return Err(Error::Suspect { path: work.archive.to_owned(), what });
    }
    for write in &plan.writes {
        if let How::Image(Format::Qcow2) = &write.how {
            let (image, archive, member) = (Staging::part(&write.to), work.archive.to_owned(), write.member.clone());
            staging.call("check", &write.to, move || foreign::check(&image, &archive, &member))?;
        }
    }
    Ok(())
}

fn copy(work: &Work<'_>, contents: &mut dyn Read, to: &Path, file: &PatientFile) -> Result<(), Error> {
    let failed = Error::file("write", to);
    let mut output = Output::start(file, Kind::NewFile).map_err(&failed)?;
    let mut offset = 0;
    pour(work, contents, |bytes| {
        output.take(offset, bytes).map_err(&failed)?;
        offset += bytes.len() as u64;
        work.advance(bytes.len() as u64);
        Ok(())
    })?;
    output.finish().and_then(|()| file.with(move |file| file.set_len(offset))).map_err(&failed)
}

/// Reads to the end, unless the operator wants to stop.
fn pour(
    work: &Work<'_>,
    contents: &mut dyn Read,
    mut sink: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    loop {
        work.go_on()?;
        match contents.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => sink(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                let source = crate::archive::Error::Seed { path: work.archive.to_owned(), source };
                return Err(Error::archive(work.archive)(source));
            }
        }
    }
}

/// [`Seed::each`] with errors of the engine.
fn each(
    seed: &Seed,
    work: &Work<'_>,
    mut visit: impl FnMut(&SeedMember, &mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut failed = None;
    let read = seed.each(|member, contents| {
        visit(member, contents).map_err(|error| {
            failed = Some(error);
            io::Error::other("stopped")
        })
    });
    match failed {
        Some(error) => Err(error),
        None => read.map_err(Error::archive(work.archive)),
    }
}
