//! Owns: the definition of a disk that goes back to its base. Must not: decide whether it may.

use super::seats::{Seat, Seats};
use crate::engine::Error;
use crate::engine::journal::Record;
use crate::hypervisor::domain_xml::{disk_text, has_images_of, repoint};
use crate::hypervisor::{self, Definitions, Overlay};
use crate::model::Failure;

/// Puts the disk on its base.
pub(super) fn put_right(hypervisor: &dyn Definitions, seat: &Seat, overlay: &Overlay) -> Result<(), Error> {
    let domain = &seat.domain;
    let failed = |source| hypervisor::Error::Xml { domain: domain.id.name.clone(), source };
    let xml = repoint(&domain.xml.inactive, &seat.target, overlay.saved.as_deref(), &overlay.base).map_err(failed)?;
    Ok(hypervisor.define_disk(&domain.id, disk_text(&xml, &seat.target).map_err(failed)?)?)
}

/// A definition that names the base may still have lost what it said of it besides. That keeps no overlay.
pub(super) fn put_details_right(hypervisor: &dyn Definitions, record: &mut Record, overlay: &Overlay, seats: &Seats) {
    let Some(saved) = &overlay.saved else { return };
    let uuid = record.entry().domain.uuid;
    let is_own = |seat: &&Seat| !seat.live && seat.domain.id.uuid == uuid && seat.target == overlay.target;
    for seat in seats.on_base().filter(is_own).filter(|seat| seat.above.is_none()) {
        if has_images_of(&seat.domain.xml.inactive, &seat.target, saved).unwrap_or(true) {
            continue;
        }
        if let Err(error) = put_right(hypervisor, seat, overlay) {
            record.tell(Failure {
                message: format!(
                    "disk {}: cannot restore its definition: {}",
                    seat.target,
                    crate::engine::chain(&error)
                ),
                hint: error.hint(),
            });
        }
    }
}
