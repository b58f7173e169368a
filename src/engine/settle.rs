//! Owns: bringing a disk back from an overlay of ours to its base, whatever the domain does meanwhile: it runs, it is
//! paused, it was shut off, it is gone. The end of a backup and recovery are this same act.
//!
//! Must not: touch an overlay that is not ours, commit further than to the image right below it, or remove an overlay
//! that holds the only copy of anything.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::Error;
use crate::hypervisor::domain_xml::{Changes, rewrite};
use crate::hypervisor::{Hypervisor, Kind, Overlay};
use crate::model::{Domain, DomainRef, Image};
use crate::sys::durable;

/// A commit whose progress stands still for so long is given up; the guest goes on with its overlay.
const STALLED: Duration = Duration::from_secs(600);
/// Between two looks at a block job.
const PAUSE: Duration = Duration::from_millis(25);
/// The domain may change its state under our hands; so many new beginnings are enough.
const ATTEMPTS: usize = 3;

/// Commits an overlay and removes it. Safe to call again at any time, and after an interruption at any point.
pub(super) fn overlay(hypervisor: &dyn Hypervisor, domain: &DomainRef, overlay: &Overlay) -> Result<(), Error> {
    for attempt in 1.. {
        let described = match hypervisor.describe(domain) {
            Ok(described) => Some(described),
            Err(error) if error.kind() == Kind::NoDomain => None,
            Err(error) => return Err(error.into()),
        };
        let settled = match &described {
            Some(described) if described.state.is_active() => online(hypervisor, described, overlay),
            Some(described) => offline(hypervisor, described, overlay),
            None => without_domain(overlay),
        };
        match settled {
            Ok(()) => break,
            Err(error) => {
                let before = described.map(|described| described.state.is_active());
                let now = hypervisor.state(domain).ok().map(|state| state.is_active());
                if before == now || attempt >= ATTEMPTS {
                    return Err(error);
                }
                tracing::info!(domain = domain.name, "the domain changed its state during the commit; trying again");
            }
        }
    }
    Ok(())
}

/// Lets a guest run on that was paused because the file system under its overlay was full.
pub(super) fn resume_after_io_error(hypervisor: &dyn Hypervisor, domain: &DomainRef) -> Result<bool, Error> {
    match hypervisor.is_paused_by_io_error(domain) {
        Ok(true) => hypervisor.resume(domain).map(|()| true).map_err(Error::from),
        Ok(false) => Ok(false),
        Err(error) if error.kind() == Kind::NoDomain => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn online(hypervisor: &dyn Hypervisor, described: &Domain, overlay: &Overlay) -> Result<(), Error> {
    let image = active_image(described, overlay)?;
    if is_at(image, &overlay.path) {
        expect_base(described, overlay)?;
        commit(hypervisor, &described.id, overlay)?;
    } else if image != &overlay.base {
        return Err(covered(described, overlay));
    }
    let after = hypervisor.describe(&described.id)?;
    let disk = after.disks.iter().find(|disk| disk.target == overlay.target);
    let on_base = disk.is_some_and(|disk| {
        let persistent = disk.persistent.as_ref().unwrap_or(&disk.image);
        is_same_place(&disk.image, &overlay.base) && !is_at(persistent, &overlay.path)
    });
    if !on_base {
        return Err(covered(&after, overlay));
    }
    unlink(&overlay.path)
}

/// Adopts a commit that an interrupted run has started.
fn commit(hypervisor: &dyn Hypervisor, domain: &DomainRef, overlay: &Overlay) -> Result<(), Error> {
    let target = &overlay.target;
    if hypervisor.block_job(domain, target)?.is_none() {
        hypervisor.start_commit(domain, target)?;
    }
    let mut progress = (0, Instant::now());
    loop {
        let Some(job) = hypervisor.block_job(domain, target)? else {
            return Err(Error::Chain {
                target: target.clone(),
                message: "its commit ended before it was done".into(),
                hint: "see QEMU's log in /var/log/libvirt/qemu; then: kvmbackup recover".into(),
            });
        };
        if job.total > 0 && job.done == job.total {
            match hypervisor.pivot(domain, target) {
                Ok(()) => {
                    tracing::info!(domain = domain.name, disk = target, bytes = job.total, "committed");
                    return Ok(());
                }
                Err(error) if error.kind() == Kind::NotReady => {}
                Err(error) => return Err(error.into()),
            }
        }
        if job.done != progress.0 {
            progress = (job.done, Instant::now());
        } else if progress.1.elapsed() > STALLED {
            return Err(Error::CommitStalled { target: target.clone(), minutes: STALLED.as_secs() / 60 });
        }
        thread::sleep(PAUSE);
    }
}

/// The domain is off: QEMU's tool commits, and the definition is put back on the base.
fn offline(hypervisor: &dyn Hypervisor, described: &Domain, overlay: &Overlay) -> Result<(), Error> {
    let image = active_image(described, overlay)?;
    if is_at(image, &overlay.path) {
        commit_file(overlay)?;
        let mut changes = Changes::default();
        changes.disks.insert(overlay.target.clone(), overlay.base.clone());
        let xml = rewrite(&described.xml.inactive, &changes)
            .map_err(|source| crate::hypervisor::Error::Xml { domain: described.id.name.clone(), source })?;
        hypervisor.define(&xml.xml)?;
        return unlink(&overlay.path);
    }
    if is_same_place(image, &overlay.base) { discard(overlay) } else { Err(covered(described, overlay)) }
}

/// The domain is gone: what its guest wrote last belongs into the base all the same.
fn without_domain(overlay: &Overlay) -> Result<(), Error> {
    if overlay.path.exists() {
        commit_file(overlay)?;
    }
    unlink(&overlay.path)
}

/// The definition is on the base. An overlay with data in it is no longer ours to judge; an empty one never was used.
fn discard(overlay: &Overlay) -> Result<(), Error> {
    if overlay.path.exists() && holds_data(&overlay.path)? {
        return Err(Error::Chain {
            target: overlay.target.clone(),
            message: format!(
                "the definition names the base, but the overlay {} holds data of the guest",
                overlay.path.display()
            ),
            hint:
                "decide which is right; `qemu-img commit OVERLAY` moves the data into the base; then remove the overlay"
                    .into(),
        });
    }
    unlink(&overlay.path)
}

fn active_image<'a>(described: &'a Domain, overlay: &Overlay) -> Result<&'a Image, Error> {
    let disk = described.disks.iter().find(|disk| disk.target == overlay.target);
    disk.map(|disk| &disk.image).ok_or_else(|| Error::Chain {
        target: overlay.target.clone(),
        message: format!("the domain has no such disk any more; its overlay is {}", overlay.path.display()),
        hint: "`qemu-img commit OVERLAY` moves its data into the base; then remove the overlay".into(),
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

fn is_at(image: &Image, path: &Path) -> bool {
    image.source.path() == Some(path)
}

fn is_same_place(a: &Image, b: &Image) -> bool {
    a.source == b.source
}

fn commit_file(overlay: &Overlay) -> Result<(), Error> {
    // `-d`: the overlay is removed by us after the definition is right, not emptied before.
    qemu_img(["commit".as_ref(), "-q".as_ref(), "-d".as_ref(), "-f".as_ref(), "qcow2".as_ref()], &overlay.path)
        .map(drop)
}

fn holds_data(path: &Path) -> Result<bool, Error> {
    let map = qemu_img(["map".as_ref(), "--output=json".as_ref(), "-f".as_ref(), "qcow2".as_ref()], path)?;
    let map: serde_json::Value = serde_json::from_slice(&map).unwrap_or_default();
    let extents = map.as_array().map(Vec::as_slice).unwrap_or_default();
    // Depth 0 is the overlay itself.
    Ok(extents.iter().any(|extent| extent["depth"] == 0 && extent["present"] != false))
}

fn qemu_img<const N: usize>(arguments: [&std::ffi::OsStr; N], path: &Path) -> Result<Vec<u8>, Error> {
    let output = Command::new("qemu-img")
        .args(arguments)
        .arg("--")
        .arg(path)
        .output()
        .map_err(|error| Error::Program { program: "qemu-img", message: error.to_string() })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().chars().take(1000).collect();
    Err(Error::Program { program: "qemu-img", message })
}

fn unlink(path: &Path) -> Result<(), Error> {
    durable::remove(path).map_err(Error::file("remove the overlay", path))
}
