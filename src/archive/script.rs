//! Reads the archives of the legacy script (<https://github.com/bioinformatics-ptp/kvmBackup>): a tar stream in gzip
//! with `DATE/NAME.xml`, `DATE/NAME-inactive.xml`, `DATE/NAME-migratable.xml` and `DATE/IMAGE`. Must not write any.
//!
//! The checksum of a gzip stream is at its end: no contents can be trusted before everything was read.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use chrono::NaiveDate;
use flate2::bufread::MultiGzDecoder;
use tar::EntryType;

use super::{Error, names};
use crate::sys::patience::Patience;
use crate::sys::patient_file::{PatientFile, Reader};

/// Limit of a member: 64 TiB, the limit of a kvmbackup archive.
const MAX_MEMBER: u64 = 64 << 40;

/// Limit of headers, long names and padding between members, in bytes.
const MAX_BETWEEN: u64 = 1 << 20;

/// An archive of the legacy script.
pub struct ScriptArchive {
    file: PatientFile,
    path: PathBuf,
    domain: String,
}

/// A member of such an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptMember {
    /// Name, as `DATE/FILE`.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// Role, by its name.
    pub role: Role,
}

impl ScriptMember {
    /// The name without the date.
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// The role of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Live domain XML.
    Live,
    /// Inactive domain XML.
    Inactive,
    /// Migratable domain XML.
    Migratable,
    /// A disk image, unchanged.
    Image,
}

impl ScriptArchive {
    /// An archive of `domain` in an open file; `path` is for messages.
    pub fn new(file: File, path: &Path, domain: &str) -> ScriptArchive {
        ScriptArchive::of(PatientFile::new(file, &Patience::default()), path, domain)
    }

    /// Opens the archive of `domain`.
    pub fn open(path: &Path, domain: &str) -> Result<ScriptArchive, Error> {
        ScriptArchive::open_patiently(path, domain, &Patience::default())
    }

    /// The same, with this time limit for every call on the file.
    pub fn open_patiently(path: &Path, domain: &str, patience: &Patience) -> Result<ScriptArchive, Error> {
        let file = PatientFile::open(path, patience).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Ok(ScriptArchive::of(file, path, domain))
    }

    fn of(file: PatientFile, path: &Path, domain: &str) -> ScriptArchive {
        ScriptArchive { file, path: path.to_owned(), domain: domain.to_owned() }
    }

    /// The date of the backup in the host's time zone. Reads the first few kilobytes.
    pub fn date(&self) -> Result<NaiveDate, Error> {
        self.date_in().map_err(|source| self.damaged(source))
    }

    /// Lists the members. Reads and decodes everything.
    pub fn members(&self) -> Result<Vec<ScriptMember>, Error> {
        let mut members = Vec::new();
        self.each(|member, _| {
            members.push(member.clone());
            Ok(())
        })?;
        Ok(members)
    }

    /// Passes each member and its contents to `visit` in one pass and skips unread contents. `Ok` means that the
    /// whole file was read and its checksums match; contents must not be trusted before that.
    pub fn each(&self, visit: impl FnMut(&ScriptMember, &mut dyn Read) -> io::Result<()>) -> Result<(), Error> {
        self.each_in(visit).map_err(|source| self.damaged(source))
    }

    fn damaged(&self, source: io::Error) -> Error {
        Error::Script { path: self.path.clone(), source }
    }

    /// The tar stream and its read limit.
    fn stream(&self) -> (tar::Archive<Stream<'_>>, Rc<Cell<u64>>) {
        let until = Rc::new(Cell::new(MAX_BETWEEN));
        let gzip = MultiGzDecoder::new(self.file.reader());
        (tar::Archive::new(Stream { gzip, at: 0, until: until.clone() }), until)
    }

    fn date_in(&self) -> io::Result<NaiveDate> {
        let (mut archive, _) = self.stream();
        let first = archive.entries()?.next().ok_or_else(|| invalid("it is empty"))??;
        let path = first.path_bytes();
        let name = std::str::from_utf8(&path).map_err(|_| invalid("the first name is not UTF-8"))?;
        date_of(name).ok_or_else(|| invalid("the first name does not begin with a date"))
    }

    fn each_in(&self, mut visit: impl FnMut(&ScriptMember, &mut dyn Read) -> io::Result<()>) -> io::Result<()> {
        let (mut archive, until) = self.stream();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let stored = match entry.header().entry_type() {
                EntryType::GNUSparse => entry.header().entry_size()?,
                _ => entry.size(),
            };
            until.set(entry.raw_file_position().saturating_add(stored).saturating_add(MAX_BETWEEN));
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {}
                EntryType::Directory => continue,
                _ => return Err(invalid("a member is not a regular file")),
            }
            let name =
                String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| invalid("a name is not UTF-8"))?;
            names::check(&name).map_err(io::Error::other)?;
            if date_of(&name).is_none() {
                return Err(invalid("a name does not begin with a date"));
            }
            // A sparse member can claim any length without bytes in the file.
            if entry.size() > MAX_MEMBER {
                return Err(invalid("a member is absurdly long"));
            }
            let role = self.role(&name);
            let member = ScriptMember { name, length: entry.size(), role };
            visit(&member, &mut entry)?;
        }
        // Read the rest to check the checksum of the gzip stream.
        let mut rest = archive.into_inner().gzip;
        io::copy(&mut rest, &mut io::sink()).map(drop)
    }

    fn role(&self, name: &str) -> Role {
        let file = name.rsplit('/').next().unwrap_or(name);
        match file.strip_prefix(self.domain.as_str()) {
            Some(".xml") => Role::Live,
            Some("-inactive.xml") => Role::Inactive,
            Some("-migratable.xml") => Role::Migratable,
            _ => Role::Image,
        }
    }
}

/// A tar stream with a movable read limit, because the crate `tar` keeps a long name in memory, regardless of its
/// claimed length.
struct Stream<'a> {
    gzip: MultiGzDecoder<Reader<'a>>,
    at: u64,
    until: Rc<Cell<u64>>,
}

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.until.get().saturating_sub(self.at);
        if left == 0 && !out.is_empty() {
            return Err(invalid("a header is absurdly long"));
        }
        let most = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.gzip.read(&mut out[..most])?;
        self.at += count as u64;
        Ok(count)
    }
}

fn date_of(name: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(name.split_once('/')?.0, "%Y-%m-%d").ok()
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// The error for an archive with one member of this length and no contents.
    fn said_of(length: u64) -> String {
        let mut header = tar::Header::new_gnu();
        header.set_path("2016-05-01/vm.qcow2").unwrap();
        header.set_size(length);
        header.set_cksum();
        let seed = seed(header.as_bytes());
        let Err(Error::Script { source, .. }) = seed.members() else { panic!("a truncated archive was accepted") };
        source.to_string()
    }

    fn seed(tar: &[u8]) -> ScriptArchive {
        let mut gzip = flate2::write::GzEncoder::new(tempfile::tempfile().unwrap(), flate2::Compression::fast());
        gzip.write_all(tar).unwrap();
        ScriptArchive::new(gzip.finish().unwrap(), Path::new("vm.tar.gz"), "vm")
    }

    #[test]
    fn directories_are_skipped_and_file_names_omit_the_date() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        tar.append_data(&mut header, "2016-05-01", io::empty()).unwrap();
        header.set_entry_type(EntryType::Regular);
        tar.append_data(&mut header, "2016-05-01/vm.xml", io::empty()).unwrap();
        let members = seed(&tar.into_inner().unwrap()).members().unwrap();
        assert_eq!(members.iter().map(ScriptMember::file_name).collect::<Vec<_>>(), ["vm.xml"]);
    }

    #[test]
    fn absurdly_long_name_is_refused_without_using_memory() {
        let long = |length: u64| {
            let mut header = tar::Header::new_gnu();
            header.set_path("././@LongLink").unwrap();
            header.set_entry_type(EntryType::GNULongName);
            header.set_size(length);
            header.set_cksum();
            let mut tar = header.as_bytes().to_vec();
            tar.resize(tar.len() + length as usize, b'x');
            tar
        };
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3 * MAX_BETWEEN);
        tar.append_data(&mut header, "2016-05-01/vm.qcow2", io::repeat(1).take(3 * MAX_BETWEEN)).unwrap();
        let member = tar.get_ref().clone();
        for tar in [long(2 * MAX_BETWEEN), [member.clone(), long(2 * MAX_BETWEEN)].concat()] {
            let Err(Error::Script { source, .. }) = seed(&tar).members() else {
                panic!("an absurd header was accepted")
            };
            assert_eq!(source.to_string(), "a header is absurdly long");
        }
        let date = seed(&long(2 * MAX_BETWEEN)).date().unwrap_err();
        assert!(matches!(date, Error::Script { source, .. } if source.to_string() == "a header is absurdly long"));
        // A complete archive with several members.
        tar.append_data(&mut header, format!("2016-05-01/{}", "x".repeat(150)), io::repeat(1).take(3 * MAX_BETWEEN))
            .unwrap();
        assert_eq!(seed(&tar.into_inner().unwrap()).members().unwrap().len(), 2);
    }

    #[test]
    fn member_length_limit_is_exact() {
        assert!(!said_of(MAX_MEMBER).contains("absurdly"), "{}", said_of(MAX_MEMBER));
        assert!(said_of(MAX_MEMBER + 1).contains("absurdly"), "{}", said_of(MAX_MEMBER + 1));
    }
}
