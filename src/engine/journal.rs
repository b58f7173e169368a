//! Owns: what a backup has acquired and not yet given back, on disk, one file a domain, so that the next start can undo
//! it after a SIGKILL or a power cut. Must not: undo anything itself.
//!
//! An entry is written and synced *before* what it names exists, and loses it only *after* that is gone. It says all
//! that undoing needs: recovery reads no configuration.

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

/// How far an overlay is on its way back. Until something is noted, its contents are nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settling {
    /// The disk is about to be moved to the base. Found on the base, it was; found on the overlay, that is still the
    /// newest, and committing it again does no harm.
    Committing,
    /// The guest was seen on the base, which went on from there: the overlay must never be committed again.
    Committed,
}

/// What the backup of one domain holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of this structure.
    pub schema: u32,
    /// The run.
    pub run_id: Uuid,
    /// When the run began.
    pub started: DateTime<Utc>,
    /// The libvirt that knows the domain.
    pub libvirt_uri: String,
    /// The domain.
    pub domain: DomainRef,
    /// Its file systems may be frozen.
    pub frozen: bool,
    /// Overlays that may be in place, or lie about.
    pub overlays: Vec<Overlay>,
    /// How far each of them is on its way back, by target.
    #[serde(default)]
    pub settling: BTreeMap<String, Settling>,
    /// A backup job that may run, and its scratch files.
    pub pull: Option<PullJob>,
    /// The disks that were captured of a guest that ran: it may have to be resumed, when one of them gave it an I/O error.
    /// Not in entries of earlier versions.
    #[serde(default)]
    pub resumable: Option<Vec<String>>,
    /// Our own sockets' folder.
    pub sockets: Option<PathBuf>,
    /// The archive that is being written.
    pub partial: Option<PathBuf>,
}

impl Entry {
    /// The disks whose I/O errors may be of our making; earlier versions took those with an overlay for them.
    pub fn resumable(&self) -> Vec<String> {
        let overlays = || self.overlays.iter().map(|overlay| overlay.target.clone()).collect();
        self.resumable.clone().unwrap_or_else(overlays)
    }
}

/// The folder of the entries.
pub struct Journal {
    dir: PathBuf,
}

/// An entry and its file; every change is on disk when the call returns.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    entry: Entry,
    /// What its undoing met that an operator has to know; it is nowhere else.
    told: Vec<Failure>,
    /// How long the guest is thawed; it is not on disk.
    thawing: Thawing,
}

impl Journal {
    /// Opens the journal of a state folder.
    pub fn open(state_dir: &Path) -> Result<Journal, Error> {
        let dir = state_dir.join("journal");
        let made = step::reached(Step::JournalFolder).and_then(|()| durable::create_private_dir(&dir));
        made.map_err(Error::file("create the directory", &dir))?;
        Ok(Journal { dir })
    }

    /// Begins an entry that holds nothing yet.
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
            resumable: Some(Vec::new()),
            sockets: None,
            partial: None,
        };
        let record = Record { path: self.path(started, domain), entry, told: Vec::new(), thawing: Thawing::default() };
        record.write(Step::JournalBegin)?;
        Ok(record)
    }

    /// What the backup of a domain holds in the run that began then, if it holds anything.
    pub fn entry_of(&self, started: DateTime<Utc>, domain: &DomainRef) -> Result<Option<Record>, Error> {
        let path = self.path(started, domain);
        let exists = path.try_exists().map_err(Error::file("access", &path))?;
        exists.then(|| self.read(&path)).transpose()
    }

    /// A name of its own for every run: what an earlier one left, and nobody could undo yet, is not forgotten.
    fn path(&self, started: DateTime<Utc>, domain: &DomainRef) -> PathBuf {
        self.dir.join(format!("{:020}-{}.json", started.timestamp_micros(), domain.uuid))
    }

    /// Removes what a writer left beside the entries that was killed. The caller holds the lock, so nobody writes now.
    pub fn sweep(&self) -> Result<(), Error> {
        for path in self.files()? {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                let removed = step::reached(Step::JournalSweep).and_then(|()| durable::remove(&path));
                removed.map_err(Error::file("remove", &path))?;
            }
        }
        Ok(())
    }

    /// What earlier runs left, the newest first: its overlay lies over those of the ones before. An entry that cannot be
    /// read is an error of its own beside the others.
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
        // What an older program left is continued by this one.
        entry.schema = SCHEMA;
        limits::forget_moved(&mut entry);
        if let Some(what) = limits::overstep(&entry, self.dir.parent().unwrap_or(Path::new("/"))) {
            return Err(unreadable(format!("refusing the journal entry: {what}")));
        }
        Ok(Record { path: path.to_owned(), entry, told: Vec::new(), thawing: Thawing::default() })
    }
}

impl Record {
    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is held now.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Changes the entry; it is on disk when this returns.
    pub fn update(&mut self, change: impl FnOnce(&mut Entry)) -> Result<(), Error> {
        change(&mut self.entry);
        self.write(Step::JournalUpdate)
    }

    /// How long its guest is thawed.
    pub(super) fn thawing(&self) -> Thawing {
        self.thawing.clone()
    }

    /// Keeps what an operator has to know, for whoever reports.
    pub fn tell(&mut self, what: Failure) {
        tracing::warn!(domain = self.entry.domain.name, "{}", what.message);
        self.told.push(what);
    }

    /// All that was kept since the last time.
    pub fn told(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.told)
    }

    /// Ends the entry: nothing is held any more.
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
    fn every_change_is_on_disk_and_closing_forgets() {
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
    fn an_entry_that_is_left_is_not_overwritten_and_comes_after_newer_ones() {
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
    fn what_a_killed_writer_left_is_swept_and_no_entry() {
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
    fn every_version_that_was_written_is_read() {
        let read = |bytes: &[u8]| version::parse::<Entry>(bytes, SCHEMA);
        version::history::assert_read("journal", read, |entry| serde_json::to_vec(entry).unwrap());
    }

    #[test]
    fn an_unreadable_entry_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.begin(Uuid::new_v4(), Utc::now(), "test:///default", &domain("a")).unwrap();
        fs::write(dir.path().join("journal/0.json"), "{").unwrap();
        let left = journal.left().unwrap();
        assert!(left[0].is_ok() && left[1].is_err());
    }
}
