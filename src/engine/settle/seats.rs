//! Owns: which definitions have an overlay, or the image below it, in the chain of a disk: of all domains, of the guests that run
//! and of their next start. Must not: change anything, or decide what that means.

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
    /// The guest runs on it. Otherwise, its next start would.
    pub live: bool,
    /// The chain holds the overlay. Otherwise, it holds the base without the overlay.
    pub has_overlay: bool,
    /// The disk's images from that one down.
    pub chain: Vec<Image>,
    /// The disk's active image, where that is another one: somebody's own overlay.
    pub above: Option<Image>,
}

impl Seats {
    /// Asks for all definitions.
    ///
    /// # Errors
    /// Any domain that cannot be described might be one of them.
    pub fn find(hypervisor: &dyn Guests, own: &DomainRef, overlay: &Overlay) -> Result<Seats, Error> {
        let mut found = Seats { own: None, seats: Vec::new() };
        for (id, _) in hypervisor.domains()? {
            let domain = match hypervisor.describe(&id) {
                Ok(domain) => domain,
                // It went away since it was listed.
                Err(error) if error.kind() == Kind::NoDomain => continue,
                Err(error) => return Err(error.into()),
            };
            if domain.state.is_active() {
                found.add(&domain, &domain.disks, true, overlay);
            }
            // The disks of the next start may be others than those of now.
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

    /// The guest that runs on the overlay.
    pub fn running(&self) -> Option<&Seat> {
        self.on_overlay().find(|seat| seat.live && seat.above.is_none())
    }

    /// All disks that have the overlay in their chain.
    pub fn on_overlay(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| seat.has_overlay)
    }

    /// The domain that was backed up, and all others that have the overlay.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        let own = self.own.as_ref().map(|domain| domain.id.uuid);
        let others = self.on_overlay().map(|seat| &seat.domain).filter(move |domain| Some(domain.id.uuid) != own);
        self.own.iter().chain(others)
    }

    /// All disks that have the base in their chain, and not the overlay.
    pub fn on_base(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| !seat.has_overlay)
    }

    /// A disk on the base that makes it unclear whether the overlay or the base is right: any, when no disk has the overlay, and
    /// one of the domain itself, when another domain has it or the guest runs without it. That others name the base beside
    /// the domain itself was so before.
    pub fn rival(&self, upper: Option<&Seat>) -> Option<&Seat> {
        let own = self.own.as_ref().map(|domain| domain.id.uuid);
        let is_own = |seat: &Seat| Some(seat.domain.id.uuid) == own;
        match upper {
            None => self.on_base().next(),
            Some(upper) if is_own(upper) => self.on_base().find(|lower| is_own(lower) && lower.live),
            Some(_) => self.on_base().find(|lower| is_own(lower)),
        }
    }

    /// A disk of somebody's own on top of the overlay.
    pub fn covered(&self) -> Option<&Seat> {
        self.on_overlay().find(|seat| seat.above.is_some())
    }

    /// What decides how the overlay is settled: whether the domain is active, and whether a guest runs on the overlay.
    pub fn situation(&self) -> (Option<bool>, bool) {
        (self.own.as_ref().map(|domain| domain.state.is_active()), self.running().is_some())
    }
}

fn is_at(image: &Image, path: &Path) -> bool {
    image.source.path() == Some(path)
}
