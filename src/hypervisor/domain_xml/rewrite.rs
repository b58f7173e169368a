//! Owns: the definition of a restored domain, made from the saved one. Pure. Must not: choose names or paths, or touch
//! anything but the places that a restore has to change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use roxmltree::Node;

use super::edits::{Edits, escape, is_writable};
use super::reach::{self, Known, Reach};
use super::tree::{all, at, parse};
use super::{Error, identity};
use crate::model::{DomainRef, Image, Source};

/// What a restore changes in a definition.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// A new name and identity; without it, the domain stays the one that was saved.
    pub rename: Option<DomainRef>,
    /// Where the contents of disks were restored to, by target: files or block devices, flat and not encrypted.
    pub disks: BTreeMap<String, Image>,
    /// Disks that lose their medium and stay as drives (a CD-ROM whose image this host does not have), by target.
    pub eject: BTreeSet<String>,
    /// Disks that the new definition does not have, by target.
    pub drop_disks: BTreeSet<String>,
    /// Where the UEFI variables were restored to.
    pub nvram: Option<PathBuf>,
    /// Where files of a direct boot were restored to, by element (`kernel`, `initrd`, `dtb`).
    pub boot: BTreeMap<String, PathBuf>,
    /// Where the state of a TPM was restored to, when the definition names a place for it.
    pub tpm: Option<TpmState>,
    /// Files of this host that the definition goes on naming, and that tell a guest nothing that it should not see.
    pub kept: BTreeSet<PathBuf>,
    /// Another machine type than the one that was saved.
    pub machine: Option<String>,
}

/// Where the state of an emulated TPM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TpmState {
    /// In libvirt's own folder for the domain.
    Own,
    /// In this file.
    File(PathBuf),
}

impl TpmState {
    fn file(&self) -> Option<&PathBuf> {
        match self {
            TpmState::Own => None,
            TpmState::File(path) => Some(path),
        }
    }
}

/// A definition, ready for libvirt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The XML.
    pub xml: String,
    /// For people: what was changed beyond the plain.
    pub notes: Vec<String>,
    /// What of this host it reaches for.
    pub reaches: Vec<Reach>,
}

/// Makes the definition of a restored domain from the inactive XML that was saved.
///
/// Whatever is not changed stays byte for byte, foreign namespaces included. Under a new name, what two domains
/// cannot both have is taken out wherever libvirt makes it up anew: MAC addresses, ports, sockets, tap devices.
///
/// Fails on XML that is no domain's, on a target it does not have, on a path that XML cannot hold, and, under a new
/// name, on a writable disk that both domains would use.
pub fn rewrite(xml: &str, changes: &Changes) -> Result<Rewritten, Error> {
    let document = parse(xml)?;
    let domain = document.root_element();
    let mut edits = Edits::new(xml);
    let mut notes = Vec::new();

    change_disks(&mut edits, domain, changes)?;
    change_os(&mut edits, domain, changes)?;
    change_tpm(&mut edits, domain, changes)?;
    if let Some(genid) = at(domain, &["genid"]) {
        // A guest that goes back in time has to be told: https://libvirt.org/formatdomain.html#general-metadata
        edits.set_text(genid, "", "");
        notes.push("the generation ID is new, so that the guest notices the restore".to_owned());
    }
    if let Some(to) = &changes.rename {
        identity::renew(&mut edits, domain, to, &mut notes)?;
    }
    let xml = edits.apply();

    let files = changes.nvram.iter().chain(changes.boot.values()).chain(&changes.kept);
    let files = files.chain(changes.tpm.iter().filter_map(TpmState::file)).filter_map(|path| path.to_str()).collect();
    let known = Known { disks: changes.disks.keys().map(String::as_str).collect(), files };
    let reaches = reach::reaches(parse(&xml)?.root_element(), &known);
    Ok(Rewritten { xml, notes, reaches })
}

/// What a definition reaches for of which nothing is restored.
pub fn reaches(xml: &str) -> Result<Vec<Reach>, Error> {
    Ok(reach::reaches(parse(xml)?.root_element(), &Known::default()))
}

/// The same definition with another name and UUID; all else stays, so it must not be started beside the other.
pub fn renamed(xml: &str, to: &DomainRef) -> Result<String, Error> {
    let document = parse(xml)?;
    let mut edits = Edits::new(xml);
    identity::rename(&mut edits, document.root_element(), to)?;
    Ok(edits.apply())
}

fn change_disks(edits: &mut Edits<'_>, domain: Node<'_, '_>, changes: &Changes) -> Result<(), Error> {
    let mut unseen: BTreeSet<&String> = changes.disks.keys().chain(&changes.eject).chain(&changes.drop_disks).collect();
    for disk in all(domain, "devices").flat_map(|devices| all(devices, "disk")) {
        let target = at(disk, &["target"]).and_then(|target| target.attribute("dev")).unwrap_or_default();
        unseen.remove(&target.to_owned());
        if changes.drop_disks.contains(target) {
            edits.remove(disk);
        } else if let Some(image) = changes.disks.get(target) {
            place(edits, disk, target, image)?;
        } else if changes.eject.contains(target) {
            eject(edits, disk);
        } else if changes.rename.is_some() && is_owned(disk) {
            return Err(Error::SharedDisk { target: target.to_owned() });
        }
    }
    match unseen.first() {
        Some(target) => Err(Error::NoSuchDisk { target: target.to_string() }),
        None => Ok(()),
    }
}

/// Whether only one guest may use the disk's medium.
fn is_owned(disk: Node<'_, '_>) -> bool {
    let has = |name| at(disk, &[name]).is_some();
    has("source") && !has("readonly") && !has("shareable")
}

/// The disk is a flat, plain image at a new place now: whatever described the old one goes.
fn place(edits: &mut Edits<'_>, disk: Node<'_, '_>, target: &str, image: &Image) -> Result<(), Error> {
    let (kind, path) = match &image.source {
        Source::File(path) => ("file", path),
        Source::Block(path) => ("block", path),
        Source::Network(_) | Source::Unsupported(_) | Source::Empty => {
            return Err(Error::Place { target: target.to_owned() });
        }
    };
    let attribute = if kind == "file" { "file" } else { "dev" };
    let new_source = format!("<source {attribute}='{}'/>", escape(as_text(path)?));

    edits.set(disk, "type", kind);
    if kind == "file" && disk.attribute("device") == Some("lun") {
        // libvirt passes only block devices and network sources through; the rest of a LUN's attributes go with it.
        edits.set(disk, "device", "disk");
        edits.unset(disk, "rawio");
        edits.unset(disk, "sgio");
    }
    let driver = at(disk, &["driver"]);
    let new_driver = format!("<driver name='qemu' type='{}'/>", escape(image.format.driver()));
    for driver in all(disk, "driver") {
        edits.set(driver, "type", image.format.driver());
        all(driver, "metadata_cache").for_each(|cache| edits.remove(cache));
    }
    let (source, anchor) = (at(disk, &["source"]), at(disk, &["target"]));
    all(disk, "source").skip(1).for_each(|other| edits.remove(other));
    match (source, anchor) {
        (Some(source), _) => edits.replace(source, new_source),
        (None, Some(anchor)) => edits.insert_after(anchor, &new_source),
        (None, None) => {}
    }
    if let (None, Some(anchor)) = (driver, anchor) {
        edits.insert_after(anchor, &new_driver);
    }
    for gone in ["backingStore", "encryption", "mirror", "auth"] {
        all(disk, gone).for_each(|node| edits.remove(node));
    }
    Ok(())
}

/// A drive without a medium is of type file, whatever its medium was.
fn eject(edits: &mut Edits<'_>, disk: Node<'_, '_>) {
    edits.set(disk, "type", "file");
    for gone in ["source", "backingStore", "encryption", "mirror", "auth"] {
        all(disk, gone).for_each(|node| edits.remove(node));
    }
}

fn change_os(edits: &mut Edits<'_>, domain: Node<'_, '_>, changes: &Changes) -> Result<(), Error> {
    let Some(os) = at(domain, &["os"]) else { return Ok(()) };
    if let (Some(kind), Some(machine)) = (at(os, &["type"]), &changes.machine) {
        edits.set(kind, "machine", machine);
    }
    for (element, path) in &changes.boot {
        for node in os.children().filter(|node| super::tree::is(*node, element)) {
            edits.set_text(node, as_text(path)?, "");
        }
    }
    match (at(os, &["nvram"]), &changes.nvram, &changes.rename) {
        // The variables are a file, so a `type` that says otherwise goes.
        (Some(nvram), Some(path), _) => edits.set_text(nvram, as_text(path)?, "type"),
        (None, Some(path), _) => {
            if let Some(kind) = at(os, &["type"]) {
                edits.insert_after(kind, &format!("<nvram>{}</nvram>", escape(as_text(path)?)));
            }
        }
        // libvirt makes a file of the new name from the template.
        (Some(nvram), None, Some(_)) => edits.set_text(nvram, "", "type"),
        (_, None, _) => {}
    }
    Ok(())
}

fn change_tpm(edits: &mut Edits<'_>, domain: Node<'_, '_>, changes: &Changes) -> Result<(), Error> {
    let Some(state) = &changes.tpm else { return Ok(()) };
    let tpms = all(domain, "devices").flat_map(|devices| all(devices, "tpm"));
    for source in tpms.filter_map(|tpm| at(tpm, &["backend", "source"])) {
        match state {
            TpmState::Own => edits.remove(source),
            TpmState::File(path) => edits.set(source, "path", as_text(path)?),
        }
    }
    Ok(())
}

pub(super) fn as_text(path: &Path) -> Result<&str, Error> {
    path.to_str().filter(|text| is_writable(text)).ok_or_else(|| Error::Path(path.to_owned()))
}
