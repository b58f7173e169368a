//! Owns: bringing a disk back from an overlay of ours to its base, whatever the domain does meanwhile: it runs, it is
//! paused, it was shut off, it is gone. The end of a backup and recovery are this same act.
//!
//! Must not: touch an overlay that is not ours, commit further than to the image right below it, or remove an overlay
//! that holds the only copy of anything.
//!
//! A disk on its base says nothing of its overlay: we may have moved it there, or somebody else, past what the guest
//! wrote last. So the journal says before a move that it is ours ([`Settling`]). Without that, an overlay goes only if
//! it is empty.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::journal::{Record, Settling};
use super::{Error, overlay_file};
use crate::hypervisor::domain_xml::repoint;
use crate::hypervisor::{self, Hypervisor, Kind, OffKind, Overlay};
use crate::model::{Domain, DomainRef, Image};

/// A commit that comes no nearer to its end for so long is given up; the guest goes on with its overlay. That it moves data
/// says nothing: a guest may write faster than that.
const STALLED: Duration = Duration::from_secs(600);
/// Between two looks at a block job.
const PAUSE: Duration = Duration::from_millis(25);
/// The domain may change its state under our hands; so many new beginnings are enough.
const ATTEMPTS: usize = 3;
/// How long a call that libvirt is still at is waited for.
const CALLS: Duration = Duration::from_secs(60);
/// How long somebody else may hold the domain, so that libvirt refuses to change its state: half a minute goes by each time
/// until it says so.
const CALLS_OF_OTHERS: Duration = Duration::from_secs(300);
/// How long a restart of libvirtd may take.
const RESTART: Duration = Duration::from_secs(60);
/// Between two tries after such a failure.
const AGAIN: Duration = Duration::from_millis(500);
/// What moves an overlay's data by hand.
const BY_HAND: &str = "`qemu-img commit OVERLAY` moves its data into the base; then remove the overlay";

/// Commits an overlay and removes it. Safe to call again at any time, and after an interruption at any point.
pub(super) fn overlay(hypervisor: &dyn Hypervisor, record: &mut Record, overlay: &Overlay) -> Result<(), Error> {
    if overlay_file::is_unused(&overlay.path) {
        return overlay_file::remove(&overlay.path);
    }
    let domain = record.entry().domain.clone();
    let (began, mut attempt) = (Instant::now(), 0);
    loop {
        let (before, settled) = once(hypervisor, record, overlay);
        let Err(error) = settled else { return Ok(()) };
        if began.elapsed() < patience(&error) {
            tracing::warn!(domain = domain.name, "{}; trying again", super::chain(&error));
            thread::sleep(AGAIN);
            continue;
        }
        attempt += 1;
        let now = hypervisor.state(&domain).ok().map(|state| state.is_active());
        if before == now || attempt >= ATTEMPTS {
            return Err(error);
        }
        tracing::info!(domain = domain.name, "the domain changed its state during the commit; trying again");
    }
}

/// Whether the domain was active, if there is one, and what came of it.
fn once(hypervisor: &dyn Hypervisor, record: &mut Record, overlay: &Overlay) -> (Option<bool>, Result<(), Error>) {
    match hypervisor.describe(&record.entry().domain) {
        Ok(described) if described.state.is_active() => (Some(true), online(hypervisor, record, &described, overlay)),
        Ok(described) => (Some(false), offline(hypervisor, record, &described, overlay)),
        Err(error) if error.kind() == Kind::NoDomain => (None, without_domain(record, overlay)),
        Err(error) => (None, Err(error.into())),
    }
}

/// How long such a failure is waited out: a guest had better not stay on its overlay until the next night.
fn patience(error: &Error) -> Duration {
    match error {
        Error::Hypervisor(error) if error.kind() == Kind::Busy => CALLS_OF_OTHERS,
        Error::Hypervisor(error) if error.kind() == Kind::Unreachable => RESTART,
        _ => Duration::ZERO,
    }
}

/// Waits until libvirt has done what a run asked of it that was killed meanwhile: its snapshot or backup job may come to
/// be only now. A backup job that is there hides no such call.
pub(super) fn wait_for_calls(hypervisor: &dyn Hypervisor, domain: &DomainRef) {
    let began = Instant::now();
    // An error is for the calls that follow; a domain that is off has no jobs.
    while hypervisor.state(domain).is_ok_and(|state| state.is_active())
        && matches!(hypervisor.job(domain), Ok(Some(_)))
        && !matches!(hypervisor.pull_socket(domain), Ok(Some(_)))
    {
        if began.elapsed() > CALLS {
            tracing::warn!(domain = domain.name, "libvirt is still at a job of the domain; going on");
            return;
        }
        thread::sleep(PAUSE);
    }
}

fn online(
    hypervisor: &dyn Hypervisor,
    record: &mut Record,
    described: &Domain,
    overlay: &Overlay,
) -> Result<(), Error> {
    let image = active_image(described, overlay)?;
    match settling(record, overlay) {
        Some(Settling::Committed) if is_at(image, &overlay.path) => return Err(stale(overlay)),
        _ if is_at(image, &overlay.path) => {
            expect_base(described, overlay)?;
            commit(hypervisor, record, overlay)?;
        }
        _ if !is_same_place(image, &overlay.base) => return Err(covered(described, overlay)),
        Some(_) => note(record, overlay, Some(Settling::Committed)),
        None if is_at(persistent(described, overlay).unwrap_or(image), &overlay.path) => {
            return Err(covered(described, overlay));
        }
        None => return discard(overlay),
    }
    let mut after = hypervisor.describe(&described.id)?;
    if persistent(&after, overlay).is_some_and(|image| is_at(image, &overlay.path)) {
        put_definition_right(hypervisor, &after, overlay)?;
        after = hypervisor.describe(&described.id)?;
    }
    let is_on_base = is_same_place(active_image(&after, overlay)?, &overlay.base)
        && !persistent(&after, overlay).is_some_and(|image| is_at(image, &overlay.path));
    if is_on_base { overlay_file::remove(&overlay.path) } else { Err(covered(&after, overlay)) }
}

/// Commits and moves the guest to the base, which the journal knows before and after. Adopts a commit that an
/// interrupted run has started.
fn commit(hypervisor: &dyn Hypervisor, record: &mut Record, overlay: &Overlay) -> Result<(), Error> {
    let (domain, target) = (record.entry().domain.clone(), &overlay.target);
    // The guest is on the overlay, so an earlier move came to nothing.
    note(record, overlay, None);
    if hypervisor.block_job(&domain, target)?.is_none() {
        hypervisor.start_commit(&domain, target)?;
    }
    let mut nearest = (u64::MAX, Instant::now());
    loop {
        let Some(job) = hypervisor.block_job(&domain, target)? else {
            return Err(Error::Chain {
                target: target.clone(),
                message: "its commit ended before it was done".into(),
                hint: "see QEMU's log in /var/log/libvirt/qemu; then: kvmbackup recover".into(),
            });
        };
        if !job.active_commit {
            return Err(Error::Chain {
                target: target.clone(),
                message: "another block job runs on it, so its overlay cannot be committed".into(),
                hint: "wait for it, or end it: virsh blockjob DOMAIN DISK --abort; then: kvmbackup recover".into(),
            });
        }
        if job.total > 0 && job.done == job.total {
            note(record, overlay, Some(Settling::Committing));
            match hypervisor.pivot(&domain, target) {
                Ok(()) => {
                    note(record, overlay, Some(Settling::Committed));
                    tracing::info!(domain = domain.name, disk = target, bytes = job.total, "committed");
                    return Ok(());
                }
                Err(error) if error.kind() == Kind::NotReady => note(record, overlay, None),
                Err(error) => return Err(error.into()),
            }
        }
        let left = job.total.saturating_sub(job.done);
        if left < nearest.0 {
            nearest = (left, Instant::now());
        } else if nearest.1.elapsed() > STALLED {
            return Err(Error::CommitStalled { target: target.clone(), minutes: STALLED.as_secs() / 60 });
        }
        thread::sleep(PAUSE);
    }
}

/// The domain is off: QEMU's tool commits, and the definition is put back on the base.
fn offline(
    hypervisor: &dyn Hypervisor,
    record: &mut Record,
    described: &Domain,
    overlay: &Overlay,
) -> Result<(), Error> {
    let image = active_image(described, overlay)?;
    let on_overlay = is_at(image, &overlay.path);
    if !on_overlay && !is_same_place(image, &overlay.base) {
        return Err(covered(described, overlay));
    }
    if !on_overlay && !overlay.path.exists() {
        return Ok(());
    }
    expect_at_rest(hypervisor, &described.id, overlay)?;
    if !on_overlay && settling(record, overlay).is_none() {
        return discard(overlay);
    }
    if on_overlay {
        if settling(record, overlay) != Some(Settling::Committed) {
            overlay_file::commit(&overlay.path)?;
            note(record, overlay, Some(Settling::Committing));
        }
        put_definition_right(hypervisor, described, overlay)?;
    }
    // Somebody may have started it on the overlay before the definition was right.
    let after = hypervisor.describe(&described.id)?;
    if after.state.is_active() || !is_same_place(active_image(&after, overlay)?, &overlay.base) {
        return Err(covered(&after, overlay));
    }
    expect_at_rest(hypervisor, &described.id, overlay)?;
    overlay_file::remove(&overlay.path)
}

/// Fails when the guest may go on with the overlay, though the domain is off.
fn expect_at_rest(hypervisor: &dyn Hypervisor, domain: &DomainRef, overlay: &Overlay) -> Result<(), Error> {
    let path = overlay.path.display();
    let (message, hint) = match hypervisor.off_kind(domain)? {
        OffKind::Plain => return Ok(()),
        OffKind::Saved => (
            format!("the domain's saved state may need the overlay {path}"),
            "start it (virsh start) or drop the saved state (virsh managedsave-remove), then: kvmbackup recover",
        ),
        OffKind::Migrated => (
            format!("the domain was migrated, and may run elsewhere on the overlay {path}"),
            "if it runs on the other host, commit it there: virsh blockcommit DOMAIN DISK --active --shallow --pivot, \
             then remove the overlay; if it runs nowhere, start it here; then: kvmbackup recover",
        ),
    };
    Err(Error::Chain { target: overlay.target.clone(), message, hint: hint.into() })
}

/// The domain is not here any more. It may have been moved to another host and run there, on the overlay.
fn without_domain(record: &Record, overlay: &Overlay) -> Result<(), Error> {
    if settling(record, overlay) == Some(Settling::Committed) {
        return overlay_file::remove(&overlay.path);
    }
    if overlay.path.exists() && overlay_file::holds_data(&overlay.path)? {
        return Err(Error::Chain {
            target: overlay.target.clone(),
            message: format!("the domain is gone, but the overlay {} holds data of the guest", overlay.path.display()),
            hint: format!("see that no other host runs the domain; {BY_HAND}; then: kvmbackup recover"),
        });
    }
    overlay_file::remove(&overlay.path)
}

/// The disk is on the base, and not by us. An overlay with data in it is not ours to judge; an empty one was never used.
fn discard(overlay: &Overlay) -> Result<(), Error> {
    if overlay.path.exists() && overlay_file::holds_data(&overlay.path)? {
        return Err(Error::Chain {
            target: overlay.target.clone(),
            message: format!(
                "the definition names the base, but the overlay {} holds data of the guest",
                overlay.path.display()
            ),
            hint: format!("decide which is right; with the guest off, {BY_HAND}; then: kvmbackup recover"),
        });
    }
    overlay_file::remove(&overlay.path)
}

fn put_definition_right(hypervisor: &dyn Hypervisor, described: &Domain, overlay: &Overlay) -> Result<(), Error> {
    let xml = repoint(&described.xml.inactive, &overlay.target, &overlay.base)
        .map_err(|source| hypervisor::Error::Xml { domain: described.id.name.clone(), source })?;
    hypervisor.define(&xml)?;
    Ok(())
}

fn settling(record: &Record, overlay: &Overlay) -> Option<Settling> {
    record.entry().settling.get(&overlay.target).copied()
}

/// A journal that cannot be written (a full disk) keeps no guest on its overlay: after a kill just then, a person has
/// to look.
fn note(record: &mut Record, overlay: &Overlay, how_far: Option<Settling>) {
    if settling(record, overlay) == how_far {
        return;
    }
    let target = overlay.target.clone();
    let noted = record.update(|entry| match how_far {
        Some(how_far) => drop(entry.settling.insert(target, how_far)),
        None => drop(entry.settling.remove(&target)),
    });
    if let Err(error) = noted {
        tracing::warn!(disk = overlay.target, "{}", super::chain(&error));
    }
}

fn persistent<'a>(described: &'a Domain, overlay: &Overlay) -> Option<&'a Image> {
    described.disks.iter().find(|disk| disk.target == overlay.target)?.persistent.as_ref()
}

fn active_image<'a>(described: &'a Domain, overlay: &Overlay) -> Result<&'a Image, Error> {
    let disk = described.disks.iter().find(|disk| disk.target == overlay.target);
    disk.map(|disk| &disk.image).ok_or_else(|| Error::Chain {
        target: overlay.target.clone(),
        message: format!("the domain has no such disk any more; its overlay is {}", overlay.path.display()),
        hint: format!("{BY_HAND}; then: kvmbackup recover"),
    })
}

fn expect_base(described: &Domain, overlay: &Overlay) -> Result<(), Error> {
    let disk = described.disks.iter().find(|disk| disk.target == overlay.target);
    match disk.and_then(|disk| disk.backing.first()) {
        Some(base) if is_same_place(base, &overlay.base) => Ok(()),
        _ => Err(covered(described, overlay)),
    }
}

fn covered(described: &Domain, overlay: &Overlay) -> Error {
    let now = described
        .disks
        .iter()
        .find(|disk| disk.target == overlay.target)
        .and_then(|disk| disk.image.source.path())
        .map_or_else(|| "elsewhere".to_owned(), |path| path.display().to_string());
    Error::Chain {
        target: overlay.target.clone(),
        message: format!("it is on {now}, so the overlay {} cannot be committed", overlay.path.display()),
        hint: "somebody changed the disk's chain since; commit or remove their snapshot, then: kvmbackup recover"
            .into(),
    }
}

/// The guest was on the base already and was put on the overlay again: neither of the two is right alone.
fn stale(overlay: &Overlay) -> Error {
    Error::Chain {
        target: overlay.target.clone(),
        message: format!(
            "it is on the overlay {} again, which was committed already and is older than the base below it",
            overlay.path.display()
        ),
        hint: "its disk mixes old and new; turn the guest off, keep a copy of the overlay if what it wrote since \
               matters, then: kvmbackup recover, which goes back to the base"
            .into(),
    }
}

fn is_at(image: &Image, path: &Path) -> bool {
    image.source.path() == Some(path)
}

fn is_same_place(a: &Image, b: &Image) -> bool {
    a.source == b.source
}

#[cfg(test)]
mod tests;
