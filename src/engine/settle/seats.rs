//! Finds the disks that have an overlay, or the image below it, in their chain: of all domains, in running guests and
//! in the definitions for their next start. Must not change anything, or decide what that means.

use std::path::Path;

use crate::engine::Error;
use crate::hypervisor::{Guests, Kind, Overlay};
use crate::model::{Disk, Domain, DomainRef, Image};

/// All definitions that name an overlay or the image below it.
pub(super) struct Seats {
    /// The domain that was backed up, if libvirt still has it.
    pub own: Option<Domain>,
    seats: Vec<Seat>,
}

/// A disk with the overlay, or its base, in its chain.
pub(super) struct Seat {
    pub domain: Domain,
    pub target: String,
    /// Whether a running guest uses it. Otherwise, it is in the definition for the next start.
    pub live: bool,
    /// Whether the chain contains the overlay. Otherwise, it contains the base without the overlay.
    pub has_overlay: bool,
    /// The disk's images from the overlay or the base down.
    pub chain: Vec<Image>,
    /// The disk's active image, if another program's image is on top.
    pub above: Option<Image>,
}

impl Seats {
    /// Queries all definitions.
    ///
    /// # Errors
    /// If any domain cannot be described, because it might have the overlay.
    pub fn find(hypervisor: &dyn Guests, own: &DomainRef, overlay: &Overlay) -> Result<Seats, Error> {
        let mut found = Seats { own: None, seats: Vec::new() };
        for (id, _) in hypervisor.domains()? {
            let domain = match hypervisor.describe(&id) {
                Ok(domain) => domain,
                // The domain disappeared after it was listed.
                Err(error) if error.kind() == Kind::NoDomain => continue,
                Err(error) => return Err(error.into()),
            };
            if domain.state.is_active() {
                found.add(&domain, &domain.disks, true, overlay);
            }
            // The disks at the next start may differ from the current ones.
            match hypervisor.persistent(&id) {
                Ok(Some(defined)) => found.add(&domain, &defined.disks, false, overlay),
                Ok(None) => {}
                Err(error) if error.kind() == Kind::NoDomain => continue,
                Err(error) => return Err(error.into()),
            }
            if id.uuid == own.uuid {
                found.own = Some(domain);
            }
        }
        Ok(found)
    }

    fn add(&mut self, domain: &Domain, disks: &[Disk], live: bool, overlay: &Overlay) {
        for disk in disks {
            let chain: Vec<&Image> = std::iter::once(&disk.image).chain(&disk.backing).collect();
            let overlay_at = chain.iter().position(|image| is_at(image, &overlay.path));
            let base_at = || chain.iter().position(|image| image.source == overlay.base.source);
            let Some(at) = overlay_at.or_else(base_at) else { continue };
            self.seats.push(Seat {
                domain: domain.clone(),
                target: disk.target.clone(),
                live,
                has_overlay: overlay_at.is_some(),
                chain: chain[at..].iter().map(|image| (*image).clone()).collect(),
                above: (at > 0).then(|| disk.image.clone()),
            });
        }
    }

    /// The disk of the guest that runs on the overlay.
    pub fn running(&self) -> Option<&Seat> {
        self.on_overlay().find(|seat| seat.live && seat.above.is_none())
    }

    /// All disks with the overlay in their chain.
    pub fn on_overlay(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| seat.has_overlay)
    }

    /// The domain that was backed up, and all others with the overlay.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        let own = self.own.as_ref().map(|domain| domain.id.uuid);
        let others = self.on_overlay().map(|seat| &seat.domain).filter(move |domain| Some(domain.id.uuid) != own);
        self.own.iter().chain(others)
    }

    /// All disks with the base but without the overlay in their chain.
    pub fn on_base(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| !seat.has_overlay)
    }

    /// A disk on the base that makes it unclear whether the overlay or the base is correct. If no disk has the overlay,
    /// that is any disk. If the domain itself has the overlay, it is a disk of its running guest. If another domain has
    /// it, it is any disk of the domain itself. Other domains may have named the base before the backup.
    pub fn rival(&self, upper: Option<&Seat>) -> Option<&Seat> {
        let own = self.own.as_ref().map(|domain| domain.id.uuid);
        let is_own = |seat: &Seat| Some(seat.domain.id.uuid) == own;
        match upper {
            None => self.on_base().next(),
            Some(upper) if is_own(upper) => self.on_base().find(|lower| is_own(lower) && lower.live),
            Some(_) => self.on_base().find(|lower| is_own(lower)),
        }
    }

    /// A disk with another program's image on top of the overlay.
    pub fn covered(&self) -> Option<&Seat> {
        self.on_overlay().find(|seat| seat.above.is_some())
    }

    /// What decides how to settle the overlay: whether the domain is active, and whether a guest runs on the overlay.
    pub fn situation(&self) -> (Option<bool>, bool) {
        (self.own.as_ref().map(|domain| domain.state.is_active()), self.running().is_some())
    }
}

fn is_at(image: &Image, path: &Path) -> bool {
    image.source.path() == Some(path)
}
