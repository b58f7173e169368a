//! Owns: a domain's disks held still at one instant, by a snapshot or a backup job, and the way back. Must not: read
//! them.
//!
//! What exists is in the journal before it exists. [`Capture::release`] gives everything back; when it is not called
//! (a panic), the journal still says what the next start has to undo.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::journal::Record;
use super::{Error, overlay_file, quiesce, ready, settle};
use crate::config::{DomainSettings, Quiesce};
use crate::hypervisor::domain_xml::disk_text;
use crate::hypervisor::{Hypervisor, Overlay, PullJob, Scratch};
use crate::model::{Consistency, Disk, Domain, DomainOutcome, DomainRef, DomainState, Failure, Method, Source};
use crate::nbd;
use crate::plan::{CapturePlan, How};
use crate::sys::step::{self, Step};
use crate::sys::{durable, space};

/// Where overlays and scratch files of disks without a folder of their own (block devices, network) go.
const IMAGES: &str = "/var/lib/libvirt/images";
/// An image's file system with less room than this is not made to carry an overlay.
const MIN_OVERLAY_SPACE: u64 = 64 << 20;
/// How long a server of ours may take to answer.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a backup job may take to end.
const JOB_END: Duration = Duration::from_secs(60);
/// Between two looks at a backup job.
const PAUSE: Duration = Duration::from_millis(25);

/// A domain's disks, held still.
pub(super) struct Capture<'a> {
    hypervisor: &'a dyn Hypervisor,
    domain: &'a Domain,
    /// When it was begun, if it was.
    began: Option<Instant>,
    overlays: Vec<Overlay>,
    pull: Option<PullJob>,
    sockets: PathBuf,
    /// Folders whose file systems grow while the capture lasts.
    growing: Vec<PathBuf>,
}

/// One disk of a capture, ready to be read.
pub(super) struct Reading {
    /// The connection.
    pub client: nbd::Client,
    /// The process that serves it, if it is ours.
    server: Option<nbd::Server>,
}

impl Reading {
    /// Ends the connection and its process.
    pub fn finish(self) -> Result<(), nbd::Error> {
        drop(self.client);
        self.server.map_or(Ok(()), nbd::Server::finish)
    }
}

impl<'a> Capture<'a> {
    /// Decides what will exist, and notes it in the journal; touches neither guest nor images.
    pub fn prepare(
        hypervisor: &'a dyn Hypervisor,
        domain: &'a Domain,
        plan: &CapturePlan,
        settings: &DomainSettings,
        sockets: &Path,
        record: &mut Record,
        outcome: &mut DomainOutcome,
    ) -> Result<Capture<'a>, Error> {
        let mut capture = Capture {
            hypervisor,
            domain,
            began: None,
            overlays: Vec::new(),
            pull: None,
            sockets: sockets.to_owned(),
            growing: Vec::new(),
        };
        let captured = captured(plan);
        if captured.is_empty() {
            outcome.consistency = Some(ready::at_rest(hypervisor, domain, outcome)?);
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
        record.update(|entry| {
            entry.overlays.clone_from(&capture.overlays);
            entry.pull.clone_from(&capture.pull);
        })?;
        Ok(capture)
    }

    fn make_sockets(&self) -> Result<(), Error> {
        let made = step::reached(Step::SocketsCreate).and_then(|()| durable::create_private_dir(&self.sockets));
        made.map_err(Error::file("create the folder", &self.sockets))
    }

    /// Captures the disks as planned: freezes, snapshots or starts the job, thaws; notes in `outcome` what was reached. After
    /// an error, too, what exists has to be released.
    pub fn start(
        &mut self,
        plan: &CapturePlan,
        settings: &DomainSettings,
        record: &mut Record,
        outcome: &mut DomainOutcome,
    ) -> Result<(), Error> {
        self.make_sockets()?;
        let running = self.domain.state == DomainState::Running;
        let quiesce = if running { settings.quiesce } else { Quiesce::Never };
        let timeout = settings.freeze_timeout;
        let captured = captured(plan);
        let (hypervisor, id) = (self.hypervisor, &self.domain.id);
        let others = others(self.domain, &captured);
        let (started, frozen) = quiesce::around(hypervisor, record, quiesce, timeout, || {
            self.began = Some(Instant::now());
            match &self.pull {
                Some(job) => hypervisor.begin_pull(id, job, &others).map_err(Error::Snapshot),
                None => hypervisor.snapshot(id, &self.overlays, &others).map_err(Error::Snapshot),
            }
        });
        outcome.consistency = Some(if frozen.reached { Consistency::Filesystem } else { Consistency::Crash });
        if frozen.reached {
            outcome.frozen_ms = Some(frozen.time.as_millis() as u64);
        }
        if let Some(refused) = frozen.refused {
            let Failure { message, hint } = Error::from(refused).failure();
            outcome.warnings.push(Failure { message: format!("only crash-consistent: {message}"), hint });
        }
        // Reading may take hours: a guest that stands still is worth more than its backup.
        frozen.still_frozen.map_or(Ok(()), Err)?;
        started?;
        let reached = outcome.consistency;
        tracing::info!(domain = id.name, ?reached, frozen_ms = outcome.frozen_ms, "captured {} disks", captured.len());
        Ok(())
    }

    /// Connects to one disk. With `force_share`, others may write to its image meanwhile.
    pub fn open(&self, disk: &Disk, how: &How, force_share: bool) -> Result<Reading, nbd::Error> {
        if let (How::Capture, Some(job)) = (how, &self.pull) {
            let client = nbd::Client::connect(&job.socket, &disk.target, SERVER_TIMEOUT)?;
            return Ok(Reading { client, server: None });
        }
        let image = match how {
            How::Capture => &disk.image,
            How::Direct(image) => image,
        };
        let mut chain = vec![image.clone()];
        // The chain in hand is the active image's; that of another image is left to what its header says.
        if *image == disk.image {
            chain.extend(disk.backing.iter().cloned());
        }
        let socket = self.sockets.join(format!("{}.sock", disk.target));
        let server = nbd::Server::start(&chain, &socket, SERVER_TIMEOUT, nbd::Options { force_share })?;
        let client = nbd::Client::connect(server.socket(), "", SERVER_TIMEOUT)?;
        Ok(Reading { client, server: Some(server) })
    }

    /// Fails when the guest would soon be paused for want of room, so that the capture ends before that.
    pub fn check_space(&self) -> Result<(), Error> {
        self.growing.iter().try_for_each(|dir| check_room(dir))
    }

    /// Whether nothing had to be held still.
    pub fn is_empty(&self) -> bool {
        self.overlays.is_empty() && self.pull.is_none()
    }

    /// Whether there may be something to be committed back.
    pub fn has_overlays(&self) -> bool {
        self.began.is_some() && !self.overlays.is_empty()
    }

    /// How long the capture has existed, if it ever did.
    pub fn age(&self) -> Option<Duration> {
        self.began.map(|began| began.elapsed())
    }

    /// Gives everything back: commits and removes overlays, ends the job, removes scratch files and sockets. Returns
    /// what could not be given back; that stays in the journal.
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
            });
        }
        Ok(())
    }

    fn plan_pull(&mut self, disks: &[&Disk], settings: &DomainSettings, run: &str) -> Result<(), Error> {
        let mut scratch = Vec::new();
        for disk in disks {
            let path = self.beside(disk, settings.scratch_dir.as_deref(), &format!("kvmbackup-{run}.scratch"))?;
            scratch.push(Scratch { target: disk.target.clone(), path });
        }
        let socket = self
            .hypervisor
            .socket_path(&self.domain.id, "kvmbackup.sock")?
            .unwrap_or_else(|| self.sockets.join("pull.sock"));
        self.pull = Some(PullJob { socket, scratch });
        Ok(())
    }

    /// `<image>.<target>.<ending>` beside the image, or in the folder asked for; the target keeps apart images of one
    /// name from different folders.
    fn beside(&mut self, disk: &Disk, folder: Option<&Path>, ending: &str) -> Result<PathBuf, Error> {
        let own = own_folder(disk);
        let name = disk.image.source.path().and_then(Path::file_name);
        let folder = folder_for(disk, folder);
        let mut file = name.unwrap_or_default().to_string_lossy().into_owned();
        if own != Some(folder) {
            file = format!("{}-{file}", self.domain.id.uuid);
        }
        let path = folder.join(overlay_file::fitting(&file, &format!("{}.{ending}", disk.target)));
        if path.symlink_metadata().is_ok() {
            return Err(Error::Chain {
                target: disk.target.clone(),
                message: format!("{} exists already", path.display()),
                hint: "it is not of this run; look what it is, and move it away".into(),
            });
        }
        if !self.growing.iter().any(|known| known == folder) {
            self.growing.push(folder.to_owned());
        }
        Ok(path)
    }
}

/// The folder of a disk's image.
fn own_folder(disk: &Disk) -> Option<&Path> {
    match &disk.image.source {
        Source::File(path) => path.parent(),
        Source::Block(_) | Source::Network(_) | Source::None(_) => None,
    }
}

/// Where the overlay or the scratch file of a disk goes: into the folder asked for, else beside the image.
pub(super) fn folder_for<'a>(disk: &'a Disk, asked: Option<&'a Path>) -> &'a Path {
    asked.or(own_folder(disk)).unwrap_or(Path::new(IMAGES))
}

/// Fails when a folder has too little room for what grows in it while a guest writes.
pub(super) fn check_room(dir: &Path) -> Result<(), Error> {
    let room = space::of(dir).map_err(Error::file("ask for the free space of", dir))?;
    if room.free < MIN_OVERLAY_SPACE.min(room.total / 20) {
        return Err(Error::OverlaySpace { path: dir.to_owned(), free: crate::model::size::bytes(room.free) });
    }
    Ok(())
}

/// Undoes what a journal entry says of a domain's capture, in the order that the guest needs; what is undone leaves
/// the entry at once. Goes on after an error, and returns the first.
pub(super) fn give_back(hypervisor: &dyn Hypervisor, record: &mut Record) -> Result<(), Error> {
    let domain = record.entry().domain.clone();
    let mut failed = None;
    // A journal that cannot be written (a full disk) must not keep the rest from being undone.
    if record.entry().frozen {
        let thawed =
            quiesce::until_thawed(hypervisor, &domain).and_then(|()| record.update(|entry| entry.frozen = false));
        failed = failed.or(thawed.err());
    }
    if record.entry().pull.is_some() || !record.entry().overlays.is_empty() {
        settle::wait_for_calls(hypervisor, &domain);
    }
    if let Some(job) = record.entry().pull.clone() {
        let ended = end_pull(hypervisor, &domain, &job).and_then(|()| record.update(|entry| entry.pull = None));
        failed = failed.or(ended.err());
    }
    if !record.entry().overlays.is_empty() {
        failed = give_back_overlays(hypervisor, record, failed);
    }
    failed.map_or(Ok(()), Err)
}

/// Commits the overlays, and lets a guest go on that one of them has stopped; the first failure, `failed` before all.
fn give_back_overlays(hypervisor: &dyn Hypervisor, record: &mut Record, mut failed: Option<Error>) -> Option<Error> {
    let domain = record.entry().domain.clone();
    let mut settled = Vec::new();
    for overlay in record.entry().overlays.clone() {
        match settle::overlay(hypervisor, record, &overlay) {
            Ok(()) => settled.push(overlay.target),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    // Only then the entry loses them: that there were overlays is why the guest may have to be let go on.
    if failed.is_none() {
        match settle::resume_after_io_error(hypervisor, &domain) {
            Ok(true) => tracing::warn!(domain = domain.name, "the guest was paused by an I/O error; it runs again"),
            Ok(false) => {}
            Err(error) => return Some(error),
        }
    }
    let updated = record.update(|entry| {
        entry.overlays.retain(|overlay| !settled.contains(&overlay.target));
        entry.settling.retain(|target, _| !settled.contains(target));
    });
    failed.or(updated.err())
}

/// Removes the folder of our sockets, if it is there.
pub(super) fn remove_sockets(folder: &Path) -> Result<(), Error> {
    let removed = step::reached(Step::SocketsRemove).and_then(|()| durable::remove_dir(folder));
    removed.map_err(Error::file("remove the folder", folder))
}

/// Ends the job if it is the one we began: another's is left alone.
fn end_pull(hypervisor: &dyn Hypervisor, domain: &DomainRef, job: &PullJob) -> Result<(), Error> {
    if has_job(hypervisor, domain, job)? {
        hypervisor.end_pull(domain)?;
    }
    // libvirt has only begun to end it: until QEMU is done, the scratch files are in use, and no other backup can begin.
    let began = Instant::now();
    while has_job(hypervisor, domain, job)? {
        if began.elapsed() > JOB_END {
            return Err(Error::Other {
                message: "its backup job does not end".into(),
                hint: Some("see: virsh domjobinfo DOMAIN; then: kvmbackup recover".into()),
            });
        }
        thread::sleep(PAUSE);
    }
    for scratch in &job.scratch {
        let removed = step::reached(Step::ScratchRemove).and_then(|()| durable::remove(&scratch.path));
        removed.map_err(Error::file("remove the scratch file", &scratch.path))?;
    }
    step::reached(Step::ScratchRemove)
        .and_then(|()| durable::remove(&job.socket))
        .map_err(Error::file("remove the socket", &job.socket))
}

fn captured(plan: &CapturePlan) -> Vec<&Disk> {
    plan.disks.iter().filter(|planned| planned.how == How::Capture).map(|planned| &planned.disk).collect()
}

/// Whether libvirt still has this backup job; a domain that is gone or off has none.
fn has_job(hypervisor: &dyn Hypervisor, domain: &DomainRef, job: &PullJob) -> Result<bool, Error> {
    match hypervisor.pull_socket(domain) {
        Ok(socket) => Ok(socket.as_ref() == Some(&job.socket)),
        Err(error) if error.kind() == crate::hypervisor::Kind::NoDomain => Ok(false),
        Err(_) if matches!(hypervisor.state(domain), Ok(DomainState::Off)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn others(domain: &Domain, captured: &[&Disk]) -> Vec<String> {
    domain
        .disks
        .iter()
        .filter(|disk| !captured.iter().any(|other| other.target == disk.target))
        .map(|disk| disk.target.clone())
        .collect()
}
