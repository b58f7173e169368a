//! Lists and removes our checkpoints of one guest, for an operator who wants to get rid of them. Must not touch those of
//! another program.
//!
//! Only the image that a disk names is changed: an image below it may belong to other guests too.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use super::tracking::{self, LIMITS};
use super::{Error, qemu_img};
use crate::hypervisor::Hypervisor;
use crate::model::{Domain, DomainRef, DomainState, Format};
use crate::sys::process::Answer;
use crate::sys::program::Stream;
use crate::sys::step::{self, Step};

/// A checkpoint of ours, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// Whether libvirt has it.
    pub known: bool,
    /// The disks whose image contains its bitmap. QEMU writes bitmaps when the guest stops, so those that a running guest got
    /// since it was started are missing.
    pub disks: Vec<String>,
}

/// The domain with this name.
///
/// # Errors
/// [`Error::Rejected`] if libvirt has none.
pub fn find(hypervisor: &dyn Hypervisor, name: &str) -> Result<DomainRef, Error> {
    let found = hypervisor.domains()?.into_iter().map(|(domain, _)| domain).find(|domain| domain.name == name);
    found.ok_or_else(|| Error::Rejected {
        message: format!("libvirt has no domain `{}`", name.escape_debug()),
        hint: Some("To see all domains: virsh list --all".into()),
    })
}

/// Our checkpoints of a domain.
pub fn list(hypervisor: &dyn Hypervisor, domain: &DomainRef) -> Result<Vec<Checkpoint>, Error> {
    let mut found: BTreeMap<String, (bool, Vec<String>)> = BTreeMap::new();
    for name in tracking::checkpoints(hypervisor, domain)? {
        found.entry(name).or_default().0 = true;
    }
    for (target, image) in images(&hypervisor.describe(domain)?) {
        for name in tracking::bitmaps(&image)? {
            found.entry(name).or_default().1.push(target.clone());
        }
    }
    Ok(found.into_iter().map(|(name, (known, disks))| Checkpoint { name, known, disks }).collect())
}

/// Removes all our checkpoints of a domain with their bitmaps, and returns what there was. The next backup reads whole disks.
/// The caller has the lock, so no backup creates one meanwhile.
pub fn remove(hypervisor: &dyn Hypervisor, domain: &DomainRef) -> Result<Vec<Checkpoint>, Error> {
    let found = list(hypervisor, domain)?;
    let described = hypervisor.describe(domain)?;
    let images = images(&described);
    if described.state != DomainState::Off {
        let paths: Vec<_> = images.iter().map(|(_, path)| path.as_path()).collect();
        tracking::keep_only(hypervisor, domain, None, &paths)?;
        return Ok(found);
    }
    // libvirt cannot delete a bitmap of a domain that is off. QEMU's lock keeps the guest from being started meanwhile.
    for (_, image) in images {
        for name in tracking::bitmaps(&image)? {
            step::reached(Step::CheckpointDelete).map_err(Error::file("remove a bitmap from", &image))?;
            let [command, remove, format, qcow2] = ["bitmap", "--remove", "-f", "qcow2"].map(OsStr::new);
            // The name of the bitmap follows that of the image.
            let arguments = [command, remove, format, qcow2, OsStr::new("--"), image.as_os_str()];
            let streams = (Stream::Null, Answer::Kept(0));
            qemu_img::run(arguments, OsStr::new(&name), streams, LIMITS.stall)?;
        }
    }
    for checkpoint in found.iter().filter(|checkpoint| checkpoint.known) {
        hypervisor.delete_checkpoint(domain, &checkpoint.name, true)?;
    }
    Ok(found)
}

/// The qcow2 images that the disks name.
fn images(domain: &Domain) -> Vec<(String, PathBuf)> {
    let disks =
        domain.disks.iter().filter(|disk| disk.image.format == Format::Qcow2 && !disk.transient && !disk.readonly);
    disks.filter_map(|disk| Some((disk.target.clone(), disk.image.source.path()?.to_owned()))).collect()
}
