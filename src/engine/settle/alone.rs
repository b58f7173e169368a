//! Checks that nothing else uses an overlay or its base right before they are changed: no process, no loop device, and
//! no image of any domain that only headers connect to the overlay. Must not change anything.

use std::thread;
use std::time::{Duration, Instant};

use super::refusal;
use crate::engine::Error;
use crate::engine::users::{self, Role, User, Users};
use crate::hypervisor::{Guests, Overlay};
use crate::sys::in_use;

/// How long QEMU may take to close an image after its guest was moved off it.
const CLOSED: Duration = Duration::from_secs(10);
/// Pause between two checks.
const PAUSE: Duration = Duration::from_millis(100);

/// Checks before the base is written to without its guest. QEMU's own locks do not detect a block device that is open
/// in another mount namespace.
pub(super) fn expect_closed(overlay: &Overlay) -> Result<(), Error> {
    let base = overlay.base.source.path().map(users::open).transpose()?.unwrap_or_default();
    // A process that only reads a device (udev, a disk monitor) does not use it as an image.
    let is_image_user = |user: &in_use::User| match user {
        in_use::User::Process { guest, writes, .. } => guest.is_some() || *writes,
        in_use::User::Loop(_) => false,
    };
    let user = base.into_iter().find(is_image_user);
    user.map_or_else(|| expect_released(overlay), |user| Err(refusal::used(overlay, &User::Host(user), None)))
}

/// Checks before the overlay is removed.
pub(super) fn expect_unused(hypervisor: &dyn Guests, overlay: &Overlay) -> Result<(), Error> {
    let users = Users::look(hypervisor)?;
    if let Some(one) = users.domains(&overlay.path)?.into_iter().next() {
        let disks = hypervisor.describe(&one.domain)?.disks;
        let image = disks.iter().find(|disk| disk.target == one.target && one.role == Role::Below);
        let image = image.and_then(|disk| disk.image.source.path());
        return Err(refusal::used(overlay, &User::Domain(one.clone()), image));
    }
    expect_released(overlay)
}

fn expect_released(overlay: &Overlay) -> Result<(), Error> {
    let began = Instant::now();
    while let Some(user) = users::open(&overlay.path)?.into_iter().next() {
        if began.elapsed() > CLOSED {
            return Err(refusal::used(overlay, &User::Host(user), None));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
