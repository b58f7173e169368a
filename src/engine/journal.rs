//! Records on disk what a backup has acquired and not yet released, one file per domain, so that the next start can
//! undo it after a SIGKILL or a power cut. Must not undo anything itself.
//!
//! A resource is added to its entry and synced *before* it exists, and removed from it only *after* it is gone. An
//! entry contains everything that undoing needs, so recovery reads no configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Error;
use super::quiesce::Thawing;
use crate::hypervisor::{Overlay, PullJob};
use crate::model::version::{self, Unreadable};
use crate::model::{DomainRef, Failure};
use crate::sys::step::{self, Step};
use crate::sys::{durable, opened};

mod limits;

/// The version of the entries that this program writes, and the newest that it reads.
const SCHEMA: u32 = 1;

/// How far an overlay has been brought back. Until this is set, its contents exist nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settling {
    /// The disk is about to move to the base. If it is found on the base, it has moved. If it is found on the overlay,
    /// the overlay is still the newest image, and committing it again does no harm.
    Committing,
    /// The guest was seen on the base and has continued from there: the overlay must never be committed again.
    Committed,
}

/// The resources of one domain's backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of this structure.
    pub schema: u32,
    /// Id of the run.
    pub run_id: Uuid,
    /// When the run began.
    pub started: DateTime<Utc>,
    /// URI of the libvirt that has the domain.
    pub libvirt_uri: String,
    /// The domain.
    pub domain: DomainRef,
    /// Whether the guest's file systems may be frozen.
    pub frozen: bool,
    /// Overlays that may be in use or left over.
    pub overlays: Vec<Overlay>,
    /// How far each overlay has been brought back, by target.
    #[serde(default)]
    pub settling: BTreeMap<String, Settling>,
    /// A backup job that may be running, and its scratch files.
    pub pull: Option<PullJob>,
    /// A checkpoint whose restore point is not committed yet. Entries of earlier versions do not have this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// The captured disks of a guest that was running. If one of them caused an I/O error, the guest may have to be
    /// resumed. Entries of earlier versions do not have this.
    #[serde(default)]
    pub resumable: Option<Vec<String>>,
    /// Directory of our own sockets.
    pub sockets: Option<PathBuf>,
    /// The unfinished archive.
    pub partial: Option<PathBuf>,
}

impl Entry {
    /// The disks whose I/O errors we may have caused. In earlier versions, these are the disks with an overlay.
    pub fn resumable(&self) -> Vec<String> {
        let overlays = || self.overlays.iter().map(|overlay| overlay.target.clone()).collect();
        self.resumable.clone().unwrap_or_else(overlays)
    }
}

/// The directory of the entries.
pub struct Journal {
    dir: PathBuf,
}

/// An entry and its file. Every change is on disk when the call returns.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    entry: Entry,
    /// Warnings about the undoing of the entry. They are recorded nowhere else.
    told: Vec<Failure>,
    /// The deadline for thawing the guest; not on disk.
    thawing: Thawing,
}

impl Journal {
    /// Opens the journal of a state directory, and creates it if it does not exist.
    pub fn open(state_dir: &Path) -> Result<Journal, Error> {
        let dir = state_dir.join("journal");
        let made = step::reached(Step::JournalFolder).and_then(|()| durable::create_private_dir(&dir));
        made.map_err(Error::file("create the directory", &dir))?;
        Ok(Journal { dir })
    }

    /// Creates an entry without resources.
    pub fn begin(
        &self,
        run_id: Uuid,
        started: DateTime<Utc>,
        libvirt_uri: &str,
        domain: &DomainRef,
    ) -> Result<Record, Error> {
        let entry = Entry {
            schema: SCHEMA,
            run_id,
            started,
            libvirt_uri: libvirt_uri.to_owned(),
            domain: domain.clone(),
            frozen: false,
            overlays: Vec::new(),
            settling: BTreeMap::new(),
            pull: None,
            checkpoint: None,
            resumable: Some(Vec::new()),
            sockets: None,
            partial: None,
        };
        let record = Record { path: self.path(started, domain), entry, told: Vec::new(), thawing: Thawing::default() };
        record.write(Step::JournalBegin)?;
        Ok(record)
    }

    /// The entry of a domain in the run that began at this time, if it exists.
    pub fn entry_of(&self, started: DateTime<Utc>, domain: &DomainRef) -> Result<Option<Record>, Error> {
        let path = self.path(started, domain);
        let exists = path.try_exists().map_err(Error::file("access", &path))?;
        exists.then(|| self.read(&path)).transpose()
    }

    /// The name is different for every run, so that an earlier entry that could not be undone yet is not overwritten.
    fn path(&self, started: DateTime<Utc>, domain: &DomainRef) -> PathBuf {
        self.dir.join(format!("{:020}-{}.json", started.timestamp_micros(), domain.uuid))
    }

    /// Removes temporary files of a killed writer. The caller has the lock, so no other process is writing.
    pub fn sweep(&self) -> Result<(), Error> {
        for path in self.files()? {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                let removed = step::reached(Step::JournalSweep).and_then(|()| durable::remove(&path));
                removed.map_err(Error::file("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Entries of earlier runs, newest first, because a newer overlay is on top of an older one. An unreadable entry is
    /// an error in the list and does not hide the others.
    pub fn left(&self) -> Result<Vec<Result<Record, Error>>, Error> {
        let mut paths = self.files()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        Ok(paths.iter().rev().map(|path| self.read(path)).collect())
    }

    fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let listed = opened::entries(&self.dir).map_err(Error::file("list the directory", &self.dir))?;
        Ok(listed.iter().map(|item| self.dir.join(item.file_name())).collect())
    }

    fn read(&self, path: &Path) -> Result<Record, Error> {
        let unreadable = |message: String| Error::Rejected {
            message: format!("{}: {message}", path.display()),
            hint: Some("See docs/operations.md, \"A journal entry that cannot be read\".".into()),
        };
        let bytes =
            limits::read(path).map_err(|error| unreadable(format!("cannot read the journal entry: {error}")))?;
        let mut entry: Entry = version::parse(&bytes, SCHEMA).map_err(|error| match error {
            Unreadable::Newer { .. } => Error::Rejected {
                message: format!("{}: {error}", path.display()),
                hint: Some("Install the newer kvmbackup again, and run: kvmbackup recover".into()),
            },
            Unreadable::Json(error) => unreadable(format!("not a journal entry: {error}")),
        })?;
        // This program continues what an older one left.
        entry.schema = SCHEMA;
        limits::forget_moved(&mut entry);
        if let Some(what) = limits::overstep(&entry, self.dir.parent().unwrap_or(Path::new("/"))) {
            return Err(unreadable(format!("refusing the journal entry: {what}")));
        }
        Ok(Record { path: path.to_owned(), entry, told: Vec::new(), thawing: Thawing::default() })
    }
}

impl Record {
    /// Path of the entry's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The current resources.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Changes the entry and writes it to disk.
    pub fn update(&mut self, change: impl FnOnce(&mut Entry)) -> Result<(), Error> {
        change(&mut self.entry);
        self.write(Step::JournalUpdate)
    }

    /// The deadline for thawing the guest.
    pub(super) fn thawing(&self) -> Thawing {
        self.thawing.clone()
    }

    /// Keeps a warning for the report.
    pub fn tell(&mut self, what: Failure) {
        tracing::warn!(domain = self.entry.domain.name, "{}", what.message);
        self.told.push(what);
    }

    /// Takes the warnings that were kept since the last call.
    pub fn told(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.told)
    }

    /// Removes the entry, because everything is released.
    pub fn close(self) -> Result<(), Error> {
        let removed = step::reached(Step::JournalEnd).and_then(|()| durable::remove(&self.path));
        let done = removed.and_then(|()| match self.path.parent() {
            Some(dir) => durable::sync_dir(dir),
            None => Ok(()),
        });
        done.map_err(Error::file("remove the journal entry", &self.path))
    }

    fn write(&self, step: Step) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(&self.entry).map_err(Error::Json)?;
        let written = step::reached(step).and_then(|()| durable::write(&self.path, &text));
        written.map_err(Error::file("write the journal entry", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::{Format, Image, Source};

    fn domain(name: &str) -> DomainRef {
        DomainRef { name: name.into(), uuid: Uuid::new_v4() }
    }

    #[test]
    fn changes_are_on_disk_and_close_removes_the_entry() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let mut record = journal.begin(Uuid::new_v4(), Utc::now(), "test:///default", &domain("a b")).unwrap();
        let overlay = Overlay {
            target: "vda".into(),
            path: "/v/a.vda.kvmbackup-0123abcd.qcow2".into(),
            base: Image { source: Source::File("/v/a".into()), format: Format::Qcow2 },
            saved: None,
            marks: None,
        };
        record.update(|entry| entry.overlays.push(overlay.clone())).unwrap();
        let left = journal.left().unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].as_ref().unwrap().entry().overlays, [overlay]);
        record.close().unwrap();
        assert!(journal.left().unwrap().is_empty());
    }

    #[test]
    fn older_entry_is_not_overwritten_and_listed_after_newer_ones() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let domain = domain("a");
        let runs = [Uuid::new_v4(), Uuid::new_v4()];
        for (number, run) in runs.iter().enumerate() {
            let started = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(9 + number as i64);
            journal.begin(*run, started, "test:///default", &domain).unwrap();
        }
        let left: Vec<_> = journal.left().unwrap().into_iter().map(|record| record.unwrap().entry().run_id).collect();
        assert_eq!(left, [runs[1], runs[0]]);
    }

    #[test]
    fn temporary_file_of_a_killed_writer_is_swept_and_not_an_entry() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.begin(Uuid::new_v4(), Utc::now(), "test:///default", &domain("a")).unwrap();
        let entries = journal.files().unwrap();
        fs::write(dir.path().join("journal/.00-x.json.tmp"), "{").unwrap();
        assert_eq!(journal.left().unwrap().len(), 1);
        journal.sweep().unwrap();
        assert_eq!(journal.files().unwrap(), entries);
    }

    #[test]
    fn every_released_version_is_readable() {
        let read = |bytes: &[u8]| version::parse::<Entry>(bytes, SCHEMA);
        version::history::assert_read("journal", read, |entry| serde_json::to_vec(entry).unwrap());
    }

    #[test]
    fn unreadable_entry_does_not_hide_others() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.begin(Uuid::new_v4(), Utc::now(), "test:///default", &domain("a")).unwrap();
        fs::write(dir.path().join("journal/0.json"), "{").unwrap();
        let left = journal.left().unwrap();
        assert!(left[0].is_ok() && left[1].is_err());
    }
}
