//! Owns: what a restore asks of the hypervisor. Must not: write files, or touch a domain that runs.

use super::{Operator, Restored, other};
use crate::engine::Error;
use crate::hypervisor::domain_xml::Reach;
use crate::hypervisor::{self, Definitions, Guests, OffKind, SavedState, StateKind, domain_xml};
use crate::model::command::{quoted, typed};
use crate::model::{Domain, DomainRef, DomainState, DomainXml};
use crate::store::Contents;

/// Whether a domain may be defined: none that runs has its name or UUID, and one that is off only with `overwrite`, and when
/// nothing else speaks for its disks.
pub fn check(hypervisor: &dyn Guests, to: &DomainRef, overwrite: bool) -> Result<(), Error> {
    for (known, state) in hypervisor.domains()? {
        let (same_name, same_uuid) = (known.name == to.name, known.uuid == to.uuid);
        if !same_name && !same_uuid {
            continue;
        }
        let name = &known.name;
        if state.is_active() {
            let message = format!("the domain {name} already exists and is running");
            let hint = format!("Shut it down first: virsh shutdown {}; or restore a copy: --name NEW", quoted(name));
            return Err(other(&message, Some(&hint)));
        }
        if !overwrite {
            let message = format!("the domain {name} already exists");
            return Err(other(&message, Some("Replace it: --overwrite; or restore a copy: --name NEW")));
        }
        if !(same_name && same_uuid) {
            let message = format!("another domain has this name or UUID: {name}, {}", known.uuid);
            return Err(other(&message, Some("Undefine or rename that domain first, or restore a copy: --name NEW")));
        }
        expect_at_rest(hypervisor, &known)?;
    }
    Ok(())
}

/// Asks the operator to accept what a definition reaches for on this host, except what nearly every guest has and what the
/// domain's current definition already has.
pub fn expect_accepted(
    hypervisor: &dyn Guests,
    saved: &DomainRef,
    reaches: &[Reach],
    operator: &mut dyn Operator,
) -> Result<(), Error> {
    let present = present_reaches(hypervisor, saved)?;
    let is_new = |reach: &&Reach| !reach.is_usual && !present.iter().any(|other| other.is_same(reach));
    let new: Vec<String> = reaches.iter().filter(is_new).map(|reach| reach.text.clone()).collect();
    if new.is_empty() || operator.accepts(&new) {
        return Ok(());
    }
    let message =
        format!("the definition uses more of this host than its disks, and this was not accepted: {}", new.join("; "));
    let hint = "If this is intended: --accept-host-access; otherwise edit the definition: --xml FILE; or restore only \
    the files: --to DIR without --define";
    Err(other(&message, Some(hint)))
}

/// What the domain's current definition on this host reaches for.
fn present_reaches(hypervisor: &dyn Guests, saved: &DomainRef) -> Result<Vec<Reach>, Error> {
    let Some((known, _)) = hypervisor.domains()?.into_iter().find(|(known, _)| known.uuid == saved.uuid) else {
        return Ok(Vec::new());
    };
    let present = hypervisor.persistent(&known)?;
    Ok(present.and_then(|domain| domain_xml::reaches(&domain.xml.inactive).ok()).unwrap_or_default())
}

/// That the domain of this name is another guest now than the one that was saved.
pub fn another_guest(hypervisor: &dyn Guests, saved: &DomainRef) -> Result<Option<String>, Error> {
    let domains = hypervisor.domains()?.into_iter().map(|(known, _)| known);
    let other = domains.into_iter().find(|known| known.name == saved.name && known.uuid != saved.uuid);
    let told = |other: DomainRef| {
        let DomainRef { name, uuid } = saved;
        typed(&format!(
            "the newest restore point belongs to another guest named {name} (UUID {uuid}); the domain {name} now has \
             UUID {}: kvmbackup list {}",
            other.uuid,
            quoted(name)
        ))
    };
    Ok(other.map(told))
}

/// A saved memory goes on with the disks that it left, and so does a guest on another host: neither bears others in their
/// place.
fn expect_at_rest(hypervisor: &dyn Guests, domain: &DomainRef) -> Result<(), Error> {
    let name = &domain.name;
    let (message, hint) = match hypervisor.off_kind(domain)? {
        OffKind::Plain | OffKind::SavedToFile => return Ok(()),
        OffKind::Saved => (
            format!("the domain {name} has a saved state, which does not match the restored disks"),
            format!(
                "Discard that state: virsh managedsave-remove {}; or start the domain and shut it down; or restore a \
                 copy: --name NEW",
                quoted(name)
            ),
        ),
        OffKind::Migrated => (
            format!("the domain {name} was migrated and may run on another host with the same disks"),
            "If it does not run anywhere, start it here and shut it down, or undefine it; or restore a copy: --name NEW"
                .to_owned(),
        ),
    };
    Err(other(&message, Some(&hint)))
}

/// What libvirt goes on to list of a domain although its images, which hold it, are replaced.
pub fn lost_states(hypervisor: &dyn Guests, to: &DomainRef) -> Result<Vec<String>, Error> {
    if !hypervisor.domains()?.iter().any(|(known, _)| known.uuid == to.uuid) {
        return Ok(Vec::new());
    }
    let name = quoted(&to.name);
    let note = |state: SavedState| {
        let (what, command) = match state.kind {
            StateKind::InternalSnapshot => ("data of the snapshot", "snapshot-delete"),
            StateKind::ExternalSnapshot => ("chain of images of the snapshot", "snapshot-delete"),
            StateKind::Checkpoint => ("bitmap of the checkpoint", "checkpoint-delete"),
        };
        let (state, quoted) = (&state.name, quoted(&state.name));
        format!(
            "the {what} {state} is lost with the replaced images; to remove it from libvirt: virsh {command} {name} \
             {quoted} --metadata"
        )
    };
    Ok(hypervisor.saved_states(to)?.into_iter().map(note).collect())
}

/// What the saved definition says. It must be the definition of the domain that the archive names.
pub fn describe(saved: &Contents, xml: &str) -> Result<Domain, Error> {
    let suspect = |what: String| Error::suspect(&saved.location, &what);
    let described = read(xml).map_err(|error| suspect(format!("cannot read its definition: {error}")))?;
    if described.id != saved.domain {
        return Err(suspect(format!("its definition is that of another domain, {:?}", described.id.name)));
    }
    Ok(described)
}

/// What a definition says.
pub fn read(xml: &str) -> Result<Domain, domain_xml::Error> {
    let xml = DomainXml { live: xml.to_owned(), inactive: xml.to_owned(), migratable: xml.to_owned() };
    Ok(domain_xml::read(xml, DomainState::Off, true)?.domain)
}

/// For `map_err`: the saved definition cannot be used.
pub fn xml_error(saved: &Contents) -> impl Fn(domain_xml::Error) -> Error + '_ {
    |source| hypervisor::Error::Xml { domain: saved.domain.name.clone(), source }.into()
}

/// Defines the domain. That it cannot be started, or that its autostart stays on, does not undo that.
pub fn define(hypervisor: &dyn Definitions, xml: &str, start: bool, restored: &mut Restored) -> Result<(), Error> {
    let defined = hypervisor.define(xml)?;
    if let Err(error) = hypervisor.set_autostart(&defined, false) {
        restored.notes.push(format!("cannot disable its autostart: {}", Error::from(error).failure().message));
    }
    if start {
        match hypervisor.start(&defined) {
            Ok(()) => restored.started = true,
            Err(error) => restored.start_failure = Some(Error::from(error).failure()),
        }
    }
    restored.defined = Some(defined);
    Ok(())
}
