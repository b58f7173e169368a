//! Owns: reading a restore point that the legacy script made: one gzip stream whose checksum is at its end. Must not: believe
//! anything of it before that.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::archives::described;
use super::{Contents, Definition, Entry, Error, FileReader, Point, SavedDisk};
use crate::archive;
use crate::archive::script::{Role, ScriptArchive, ScriptMember};
use crate::model::{Disk, DomainRef, Format, Source, is_plain};
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

/// Bytes read at once.
const BUFFER: usize = 1 << 20;
/// The longest definition that is read; libvirt sends no longer one.
const MAX_XML: u64 = 4 << 20;
/// Bytes of the start of each image that are kept.
const HEAD: usize = 512;

/// An open archive of the script.
pub(super) struct Script {
    archive: ScriptArchive,
    path: PathBuf,
    domain: String,
    cancel: Cancel,
    survey: OnceCell<Survey>,
}

/// What one reading of the whole archive shows.
struct Survey {
    members: Vec<ScriptMember>,
    definitions: Vec<(Role, String)>,
    /// The first bytes of each image, by member.
    heads: BTreeMap<String, Vec<u8>>,
}

impl Script {
    pub(super) fn open(point: &Point, patience: &Patience, cancel: &Cancel) -> Result<Script, Error> {
        let (path, domain) = (point.location().to_owned(), point.domain.clone());
        let archive = ScriptArchive::open_patiently(&path, &domain, patience);
        let archive = archive.map_err(|source| Error::Archive { path: path.clone(), source })?;
        Ok(Script { archive, path, domain, cancel: cancel.clone(), survey: OnceCell::new() })
    }

    /// An image belongs to the disk whose file had its name: the script kept nothing else of the path.
    pub(super) fn contents(&self) -> Result<Contents, Error> {
        let survey = self.survey()?;
        let definition = survey.definition(Definition::Inactive).or(survey.definition(Definition::Live));
        let described = definition.and_then(|xml| described(&xml));
        let disks = described.as_ref().map_or(&[][..], |domain| &domain.disks);
        let mut skipped = BTreeMap::new();
        let mut saved = Vec::new();
        for member in survey.members.iter().filter(|member| member.role == Role::Image) {
            let name = member.file_name();
            if !is_plain(name) {
                return Err(self.suspect(format!("an image has the name {name:?}")));
            }
            let owners: Vec<&Disk> = disks.iter().filter(|disk| file_name_of(disk) == Some(name)).collect();
            saved.push(match owners[..] {
                [disk] => image(member, &disk.target, disk.image.source.clone(), disk.image.format.clone()),
                _ => image(member, name, Source::File(PathBuf::from(name)), Format::Other("unknown".to_owned())),
            });
            if owners.len() > 1 {
                let reason = format!("several disks had the file name {name}; the script saved only one of them");
                skipped.extend(owners.iter().map(|disk| (disk.target.clone(), reason.clone())));
            }
        }
        let documents = survey.members.iter().filter(|member| member.role != Role::Image);
        let uuid = described.as_ref().map_or(Uuid::nil(), |domain| domain.id.uuid);
        Ok(Contents {
            location: self.path.clone(),
            domain: DomainRef { name: self.domain.clone(), uuid },
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

    pub(super) fn definition(&self, which: Definition) -> Result<Option<String>, Error> {
        Ok(self.survey()?.definition(which))
    }

    pub(super) fn verify(&self, progress: &mut dyn FnMut(u64)) -> Vec<Error> {
        match self.look(progress) {
            Ok(survey) => {
                let _ = self.survey.set(survey);
                Vec::new()
            }
            Err(error) => vec![error],
        }
    }

    pub(super) fn head(&self, name: &str, length: usize) -> Result<Vec<u8>, Error> {
        let head = self.survey()?.heads.get(name).map_or(&[][..], Vec::as_slice);
        Ok(head[..length.min(head.len())].to_vec())
    }

    pub(super) fn files<E: From<Error>>(
        &self,
        names: &BTreeSet<&str>,
        visit: &mut dyn FnMut(&str, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut found = 0;
        self.members(|member, contents| {
            if !names.contains(member.name.as_str()) {
                return Ok(self.pour(contents, |_| ())?);
            }
            found += 1;
            visit(&member.name, &mut FileReader::new(&mut |out| self.next(contents, out)))
        })?;
        if found != names.len() {
            return Err(self.suspect("it changed while being read".to_owned()).into());
        }
        Ok(())
    }

    pub(super) fn each<E: From<Error>>(
        &self,
        visit: &mut dyn FnMut(&Entry, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.members(|member, contents| {
            let entry = Entry { name: member.name.clone(), length: member.length };
            visit(&entry, &mut FileReader::new(&mut |out| self.next(contents, out)))
        })
    }

    pub(super) fn no_disk(&self, member: &str) -> Error {
        Error::KeptAsImage { path: self.path.clone(), member: member.to_owned() }
    }

    fn survey(&self) -> Result<&Survey, Error> {
        match self.survey.get() {
            Some(survey) => Ok(survey),
            None => {
                let survey = self.look(&mut |_| ())?;
                Ok(self.survey.get_or_init(|| survey))
            }
        }
    }

    /// Reads all of it, which checks its checksum; `progress` hears of every part of an image.
    fn look(&self, progress: &mut dyn FnMut(u64)) -> Result<Survey, Error> {
        let mut survey = Survey { members: Vec::new(), definitions: Vec::new(), heads: BTreeMap::new() };
        self.members(|member, contents| {
            if survey.members.iter().any(|other| other.name == member.name) {
                return Err(self.suspect(format!("member {} occurs twice", member.name)));
            }
            survey.members.push(member.clone());
            if member.role == Role::Image {
                let mut head = Vec::new();
                self.pour(contents, |bytes| {
                    head.extend_from_slice(&bytes[..bytes.len().min(HEAD - head.len())]);
                    progress(bytes.len() as u64);
                })?;
                survey.heads.insert(member.name.clone(), head);
                return Ok(());
            }
            if member.length > MAX_XML {
                return Err(self.suspect(format!("member {} is too long for a definition", member.name)));
            }
            let mut text = Vec::new();
            self.pour(contents, |bytes| text.extend_from_slice(bytes))?;
            let text = String::from_utf8(text);
            let text = text.map_err(|_| self.suspect(format!("member {} is not UTF-8", member.name)))?;
            survey.definitions.push((member.role, text));
            Ok(())
        })?;
        if survey.members.is_empty() {
            return Err(self.suspect("it is empty".to_owned()));
        }
        Ok(survey)
    }

    /// [`ScriptArchive::each`] with the visitor's own errors.
    fn members<E: From<Error>>(
        &self,
        mut visit: impl FnMut(&ScriptMember, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut failed = None;
        let read = self.archive.each(|member, contents| {
            visit(member, contents).map_err(|error| {
                failed = Some(error);
                io::Error::other("stopped")
            })
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(read.map_err(|source| Error::Archive { path: self.path.clone(), source })?),
        }
    }

    /// Reads to the end.
    fn pour(&self, contents: &mut dyn Read, mut sink: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.next(contents, &mut buffer)? {
                0 => return Ok(()),
                count => sink(&buffer[..count]),
            }
        }
    }

    fn next(&self, contents: &mut dyn Read, out: &mut [u8]) -> Result<usize, Error> {
        loop {
            if let Some(signal) = self.cancel.signal() {
                return Err(Error::Stopped { signal });
            }
            match contents.read(out) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    return read.map_err(|source| {
                        let source = archive::Error::Script { path: self.path.clone(), source };
                        Error::Archive { path: self.path.clone(), source }
                    });
                }
            }
        }
    }

    fn suspect(&self, what: String) -> Error {
        Error::Suspect { path: self.path.clone(), what }
    }
}

impl Survey {
    fn definition(&self, which: Definition) -> Option<String> {
        let role = match which {
            Definition::Live => Role::Live,
            Definition::Inactive => Role::Inactive,
            Definition::Migratable => Role::Migratable,
        };
        self.definitions.iter().rfind(|(other, _)| *other == role).map(|(_, text)| text.clone())
    }
}

fn image(member: &ScriptMember, target: &str, source: Source, format: Format) -> SavedDisk {
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

#[cfg(test)]
mod tests;
