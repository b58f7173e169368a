//! Captures a domain's disks at one instant, with a snapshot or a backup job, and releases them again. Must not read
//! them.
//!
//! Every resource is recorded in the journal before it is created. [`Capture::release`] releases everything. If it is
//! not called (after a panic), the journal still lists what the next start must undo.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::changed::changed;
use super::error::chain as chain_text;
use super::give_back::{give_back, remove_sockets};
use super::journal::Record;
use super::tracking::{Note, Tracking};
use super::{Error, marks, overlay_file, quiesce, ready};
use crate::config::{DomainSettings, Quiesce};
use crate::hypervisor::domain_xml::disk_text;
use crate::hypervisor::{Hypervisor, Kind, Overlay, PullJob, Scratch};
use crate::model::{Consistency, Disk, Domain, DomainRef, DomainState, Failure, Method};
use crate::plan::{CapturePlan, ReadFrom};
use crate::sys::step::{self, Step};
use crate::sys::{durable, socket};

mod changed;
mod files;
mod reading;

pub(super) use files::{check_room, folder_for};
pub(super) use reading::Reading;

/// Timeout for an NBD server to start or to answer.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// The captured disks of a domain.
pub(super) struct Capture<'a> {
    hypervisor: &'a dyn Hypervisor,
    domain: &'a Domain,
    /// When the snapshot or the job was started, if it was.
    began: Option<Instant>,
    overlays: Vec<Overlay>,
    pull: Option<PullJob>,
    tracking: Tracking,
    sockets: PathBuf,
    /// Directories whose file systems fill up while the capture lasts.
    growing: Vec<PathBuf>,
}

/// What a capture achieved.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// `None` if the capture was never started.
    pub consistency: Option<Consistency>,
    /// How long the guest's file systems were frozen.
    pub frozen: Option<Duration>,
    /// A warning about the freeze.
    pub told: Option<Failure>,
}

impl<'a> Capture<'a> {
    /// Decides which files will exist and records them in the journal. Touches neither the guest nor its images.
    pub fn prepare(
        hypervisor: &'a dyn Hypervisor,
        domain: &'a Domain,
        (plan, settings, tracking): (&CapturePlan, &DomainSettings, Tracking),
        sockets: &Path,
        record: &mut Record,
    ) -> Result<Capture<'a>, Error> {
        let mut capture = Capture {
            hypervisor,
            domain,
            began: None,
            overlays: Vec::new(),
            pull: None,
            tracking,
            sockets: sockets.to_owned(),
            growing: Vec::new(),
        };
        let captured = captured(plan);
        if captured.is_empty() {
            return capture.make_sockets().map(|()| capture);
        }
        ready::to_be_captured(hypervisor, domain, &captured, settings.quiesce)?;
        let run = &record.entry().run_id.simple().to_string()[..8];
        match plan.method {
            Method::Snapshot => capture.plan_overlays(&captured, settings, run)?,
            Method::Pull => capture.plan_pull(&captured, settings, run)?,
            Method::Direct => {}
        }
        capture.check_space()?;
        let runs = domain.state == DomainState::Running;
        let resumable = captured.iter().filter(|_| runs).map(|disk| disk.target.clone()).collect();
        record.update(|entry| {
            entry.overlays.clone_from(&capture.overlays);
            entry.pull.clone_from(&capture.pull);
            entry.checkpoint = capture.tracking.new_checkpoint().map(str::to_owned);
            entry.resumable = Some(resumable);
        })?;
        Ok(capture)
    }

    fn make_sockets(&self) -> Result<(), Error> {
        let made = step::reached(Step::SocketsCreate).and_then(|()| durable::create_private_dir(&self.sockets));
        made.map_err(Error::file("create the directory", &self.sockets))
    }

    /// Captures the disks as planned: freezes, takes the snapshot or starts the job, thaws. Returns what was achieved
    /// after an error, too. The capture must be released in any case.
    pub fn start(
        &mut self,
        plan: &CapturePlan,
        settings: &DomainSettings,
        record: &mut Record,
    ) -> (Reached, Result<(), Error>) {
        let captured = captured(plan);
        let ready =
            self.make_sockets().and_then(|()| self.make_files(&captured)).and_then(|()| self.mark_files(record));
        // Checked before the freeze: libvirt makes our call wait for such a job, and the guest would stay frozen.
        let (hypervisor, id) = (self.hypervisor, &self.domain.id);
        if let Err(error) = ready.and_then(|()| ready::wait_for_jobs(hypervisor, id)) {
            return (Reached::default(), Err(error));
        }
        let running = self.domain.state == DomainState::Running;
        let quiesce = if running { settings.quiesce } else { Quiesce::Never };
        let others = others(self.domain, &captured);
        let (started, frozen) = quiesce::around(hypervisor, record, quiesce, settings.freeze_timeout, || {
            self.began = Some(Instant::now());
            match &self.pull {
                Some(job) => begin_pull(hypervisor, id, (job, &others), &mut self.tracking),
                None => hypervisor.snapshot(id, &self.overlays, &others).map_err(Error::Snapshot),
            }
        });
        let consistency = Some(if frozen.reached { Consistency::Filesystem } else { Consistency::Crash });
        let reached = Reached { consistency, frozen: frozen.time, told: frozen.told };
        // Reading may take hours, and a guest must not stay frozen for that long.
        let done = frozen.still_frozen.map_or(Ok(()), Err).and_then(|()| self.expect_unchanged(started));
        if done.is_ok() {
            tracing::info!(domain = id.name, ?consistency, frozen = ?reached.frozen, "captured {} disks", captured.len());
        }
        (reached, done)
    }

    /// What the new point leaves for the next backup. `only_changed` are the disks that were read only where they changed.
    pub fn note(&mut self, method: Method, only_changed: &[&str]) -> Option<Note> {
        std::mem::take(&mut self.tracking).note(method, only_changed)
    }

    /// Fails when a file system of the capture is nearly full, so that the capture ends before QEMU pauses the guest.
    pub fn check_space(&self) -> Result<(), Error> {
        self.growing.iter().try_for_each(|dir| check_room(dir))
    }

    /// Whether no disk had to be captured.
    pub fn is_empty(&self) -> bool {
        self.overlays.is_empty() && self.pull.is_none()
    }

    /// Whether there may be overlays to commit.
    pub fn has_overlays(&self) -> bool {
        self.began.is_some() && !self.overlays.is_empty()
    }

    /// Time since the snapshot or the job was started, if it was.
    pub fn age(&self) -> Option<Duration> {
        self.began.map(|began| began.elapsed())
    }

    /// Releases everything: commits and removes overlays, ends the job, removes scratch files and sockets. Returns the
    /// errors; what could not be released stays in the journal.
    pub fn release(self, record: &mut Record) -> Vec<Error> {
        let mut left = Vec::new();
        if let Err(error) = give_back(self.hypervisor, record) {
            left.push(error);
        }
        left.extend(remove_sockets(&self.sockets).err());
        left
    }

    fn plan_overlays(&mut self, disks: &[&Disk], settings: &DomainSettings, run: &str) -> Result<(), Error> {
        for disk in disks {
            let path = self.beside(disk, settings.overlay_dir.as_deref(), &overlay_file::ending(run))?;
            let saved =
                self.domain.persistent.then(|| disk_text(&self.domain.xml.inactive, &disk.target).ok()).flatten();
            self.overlays.push(Overlay {
                target: disk.target.clone(),
                path,
                base: disk.image.clone(),
                saved: saved.map(str::to_owned),
                marks: None,
            });
        }
        Ok(())
    }

    fn plan_pull(&mut self, disks: &[&Disk], settings: &DomainSettings, run: &str) -> Result<(), Error> {
        let mut scratch = Vec::new();
        for disk in disks {
            let path = self.beside(disk, settings.scratch_dir.as_deref(), &format!("kvmbackup-{run}.scratch"))?;
            scratch.push(Scratch { target: disk.target.clone(), path, ..Scratch::default() });
        }
        let socket = self
            .hypervisor
            .socket_path(&self.domain.id, "kvmbackup.sock")?
            .unwrap_or_else(|| self.sockets.join("pull.sock"));
        if socket.as_os_str().len() > socket::MAX_PATH {
            return Err(Error::Rejected {
                message: format!("{}: path too long for QEMU's socket", socket.display()),
                hint: Some("Set `state_dir` to a shorter path, or `method: snapshot` for this domain.".into()),
            });
        }
        self.pull = Some(PullJob { socket, scratch, checkpoint: None });
        Ok(())
    }

    /// A free path for a file that will grow. Its directory is watched from then on.
    fn beside(&mut self, disk: &Disk, folder: Option<&Path>, ending: &str) -> Result<PathBuf, Error> {
        let path = files::beside(self.domain, disk, folder, ending)?;
        let folder = folder_for(disk, folder);
        if !self.growing.iter().any(|known| known == folder) {
            self.growing.push(folder.to_owned());
        }
        Ok(path)
    }

    /// Creates the files that QEMU will write to.
    fn make_files(&self, captured: &[&Disk]) -> Result<(), Error> {
        for disk in captured {
            let target = &disk.target;
            if let Some(overlay) = self.overlays.iter().find(|overlay| overlay.target == *target) {
                files::make_overlay(&overlay.path, disk)?;
            }
            let scratch = self.pull.iter().flat_map(|job| &job.scratch).find(|scratch| scratch.target == *target);
            if let Some(scratch) = scratch {
                files::make_scratch(&scratch.path, disk, self.hypervisor.disk_size(&self.domain.id, target)?)?;
            }
        }
        Ok(())
    }

    /// Records in the journal which files the overlays and their bases are.
    fn mark_files(&mut self, record: &mut Record) -> Result<(), Error> {
        if self.overlays.is_empty() {
            return Ok(());
        }
        let domain = self.domain;
        for overlay in &mut self.overlays {
            let disk = domain.disks.iter().find(|disk| disk.target == overlay.target);
            overlay.marks = disk.and_then(|disk| marks::of_running(&domain.id.name, &overlay.path, disk));
        }
        record.update(|entry| entry.overlays.clone_from(&self.overlays))
    }

    /// Fails if the domain is not as planned any more. That may also be why the capture was refused.
    fn expect_unchanged(&self, started: Result<(), Error>) -> Result<(), Error> {
        let now = match self.hypervisor.describe(&self.domain.id) {
            Ok(now) => now,
            Err(error) => return started.and(Err(error.into())),
        };
        let mut change = changed(self.domain, &now, &self.overlays);
        if started.is_err() {
            // A failed call has done either all of its work or nothing, so neither result counts as a change.
            change = change.and_then(|_| changed(self.domain, &now, &[]));
        }
        change.map_or(started, |what| Err(Error::Changed { what }))
    }
}

/// Starts a backup job. If libvirt or QEMU refuses it, perhaps because of a bitmap, requests less, because a whole read is
/// better than no backup. A refused call changes nothing and returns at once, so the guest stays frozen only briefly.
fn begin_pull(
    hypervisor: &dyn Hypervisor,
    domain: &DomainRef,
    (job, others): (&PullJob, &[String]),
    tracking: &mut Tracking,
) -> Result<(), Error> {
    loop {
        let scratch = job.scratch.iter().map(|scratch| Scratch {
            since: tracking.since(&scratch.target).map(str::to_owned),
            tracked: tracking.includes(&scratch.target),
            ..scratch.clone()
        });
        let checkpoint = tracking.new_checkpoint().map(str::to_owned);
        let job = PullJob { scratch: scratch.collect(), checkpoint, ..job.clone() };
        match hypervisor.begin_pull(domain, &job, others) {
            Err(error) if error.kind() == Kind::Other && tracking.request_less() => {
                tracing::warn!(domain = domain.name, "trying again without a bitmap: {}", chain_text(&error));
            }
            Err(error) if error.kind() == Kind::Other => return Err(Error::PullRefused(error)),
            result => return result.map_err(Error::Snapshot),
        }
    }
}

/// Whether a plan has disks that must be captured.
pub(super) fn is_needed(plan: &CapturePlan) -> bool {
    plan.disks.iter().any(|planned| planned.how == ReadFrom::Capture)
}

fn captured(plan: &CapturePlan) -> Vec<&Disk> {
    plan.disks.iter().filter(|planned| planned.how == ReadFrom::Capture).map(|planned| &planned.disk).collect()
}

fn others(domain: &Domain, captured: &[&Disk]) -> Vec<String> {
    domain
        .disks
        .iter()
        .filter(|disk| !captured.iter().any(|other| other.target == disk.target))
        .map(|disk| disk.target.clone())
        .collect()
}
