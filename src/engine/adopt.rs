//! Owns: overlays of ours that a definition names and no journal entry does, as when the state folder was lost: finding them,
//! and giving them an entry, by which they are brought back like all others. Must not: look at domains that the configuration
//! does not cover (another installation may be at work on them), or at anything whose name is not ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::Utc;
use uuid::Uuid;

use super::journal::{Journal, Record};
use super::{Error, chain, marks, overlay_file, users};
use crate::config::Settings;
use crate::hypervisor::{Guests, Hypervisor, Kind, Overlay};
use crate::model::command::quoted;
use crate::model::{DomainRef, Failure, Format, Image};

/// An overlay of ours that no entry names.
#[derive(Debug)]
pub(super) struct Unknown {
    /// The disk.
    pub target: String,
    /// The overlay.
    pub path: PathBuf,
    /// The image below it, as far as the definition or the overlay itself tells.
    base: Option<Image>,
}

/// All overlays that the journal names. `None` when it cannot be read in full: any overlay may be in there.
pub(super) fn known(journal: &Journal) -> Option<BTreeSet<PathBuf>> {
    let mut known = BTreeSet::new();
    for record in journal.left().ok()? {
        known.extend(record.ok()?.entry().overlays.iter().map(|overlay| overlay.path.clone()));
    }
    Some(known)
}

/// The overlays of ours that a domain names, live or persistent, besides those that are known.
pub(super) fn unknown(
    hypervisor: &dyn Guests,
    domain: &DomainRef,
    known: &BTreeSet<PathBuf>,
) -> Result<Vec<Unknown>, Error> {
    let described = hypervisor.describe(domain)?;
    let defined = hypervisor.persistent(domain)?.map(|defined| defined.disks).unwrap_or_default();
    let mut found = BTreeMap::new();
    for disk in described.disks.iter().chain(&defined) {
        let chain: Vec<&Image> = std::iter::once(&disk.image).chain(&disk.backing).collect();
        for (at, image) in chain.iter().enumerate() {
            let Some(path) = image.source.path() else { continue };
            if !overlay_file::is_ours(path) || known.contains(path) || found.contains_key(path) {
                continue;
            }
            let base = chain.get(at + 1).map(|base| (*base).clone()).or_else(|| base_of(path));
            found.insert(path.to_owned(), Unknown { target: disk.target.clone(), path: path.to_owned(), base });
        }
    }
    Ok(found.into_values().collect())
}

/// The image below an overlay, by its own header. Another user may have written that: it is believed of the image in the same
/// folder that the overlay is named after, and of no other.
fn base_of(overlay: &Path) -> Option<Image> {
    let links = users::links(overlay, &Format::Qcow2).ok()??;
    let base = users::below(overlay, &links)?;
    let path = base.source.path()?;
    let is_beside = path.parent() == overlay.parent() && chain::is_plain_file(path);
    (is_beside && overlay_file::is_named_after(overlay, path)).then_some(base)
}

/// An entry for each domain with such overlays, and what has no entry because its base is unknown.
pub(super) fn adopt(
    journal: &Journal,
    hypervisor: &dyn Hypervisor,
    settings: &Settings,
) -> Result<(Vec<Record>, Vec<Failure>), Error> {
    let Some(known) = known(journal) else { return Ok((Vec::new(), Vec::new())) };
    let (mut adopted, mut left) = (Vec::new(), Vec::new());
    for (id, _) in hypervisor.domains()? {
        if settings.rule_for(&id.name).is_none() {
            continue;
        }
        let found = match unknown(hypervisor, &id, &known) {
            Ok(found) => found,
            Err(Error::Hypervisor(error)) if error.kind() == Kind::NoDomain => continue,
            Err(error) => {
                left.push(error.failure());
                continue;
            }
        };
        let mut overlays = Vec::new();
        for Unknown { target, path, base } in found {
            match base {
                Some(base) => {
                    let marks = marks::found(&path, &base, None);
                    overlays.push(Overlay { target, path, base, saved: None, marks });
                }
                None => left.push(Failure {
                    message: format!(
                        "{}: disk {target}: the definition names the overlay {}, which does not exist or is not based \
                         on the image it is named after",
                        id.name,
                        path.display()
                    ),
                    hint: Some(format!(
                        "Check which image the overlay is based on: qemu-img info -U {path}. If it is the disk's own \
                         image, start the guest so that libvirt knows the chain: virsh start {name}; then: kvmbackup recover. Otherwise set the disk's own image in the definition: virsh edit {name}",
                        path = quoted(&path.to_string_lossy()),
                        name = quoted(&id.name)
                    )),
                }),
            }
        }
        if !overlays.is_empty() {
            let mut record = journal.begin(Uuid::new_v4(), Utc::now(), &settings.libvirt_uri, &id)?;
            record.update(|entry| entry.overlays = overlays)?;
            adopted.push(record);
        }
    }
    Ok((adopted, left))
}
