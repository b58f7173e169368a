//! Owns: why an overlay stays, in words, and the commands after which `kvmbackup recover` does the rest. Must not: ask or
//! change anything.

use std::path::Path;

use super::seats::Seat;
use crate::engine::users::User;
use crate::engine::{Error, overlay_file};
use crate::hypervisor::Overlay;
use crate::model::command::quoted;
use crate::model::{Failure, Format, Image, Source};
use crate::sys::in_use;

mod held;

pub(super) use held::{bitmaps, late_snapshot, snapshots};

/// What ends every hint.
const THEN: &str = "then: kvmbackup recover";

fn refusal(overlay: &Overlay, message: String, hint: String) -> Error {
    Error::Chain { target: overlay.target.clone(), message, hint: format!("{hint}; {THEN}") }
}

fn file(overlay: &Overlay) -> String {
    quoted(&overlay.path.to_string_lossy())
}

/// Moves the overlay's data by hand.
fn by_hand(overlay: &Overlay) -> String {
    let file = file(overlay);
    let mut chain =
        vec![Image { source: Source::File(overlay.path.clone()), format: Format::Qcow2 }, overlay.base.clone()];
    let named = overlay.marks.as_ref().and_then(|marks| {
        chain.extend(marks.below.iter().cloned());
        overlay_file::options(&chain).ok()
    });
    match named {
        Some(options) => format!("qemu-img commit -d --image-opts {} && rm {file}", quoted(&options.to_string_lossy())),
        None => format!("qemu-img commit -d -f qcow2 {file} && rm {file}"),
    }
}

/// See what it is, and decide: move its data by hand, or drop it.
fn look_first(overlay: &Overlay, path: &Path) -> String {
    let (by_hand, file) = (by_hand(overlay), file(overlay));
    let seen = quoted(&path.to_string_lossy());
    format!(
        "Check the file: ls -l {seen}; qemu-img info -U {seen}; if it is the right one, with the guest off: \
         {by_hand}; if not, keep a copy and remove it: rm {file}"
    )
}

/// Another file has the name of the overlay or of its base.
pub(super) fn replaced(overlay: &Overlay, path: &Path) -> Error {
    let message = format!(
        "{} is not the same file as during the backup; it was copied or replaced, so kvmbackup commits nothing from or into it",
        path.display()
    );
    refusal(overlay, message, look_first(overlay, path))
}

/// An image of a guest that is off names a data file, which could be any file.
pub(super) fn data_file(overlay: &Overlay, path: &Path, name: &str) -> Error {
    let message =
        format!("the header of {} names the data file {name}, which only the guest's QEMU may open", path.display());
    refusal(overlay, message, look_first(overlay, path))
}

/// The header of an image cannot be read.
pub(super) fn unreadable(overlay: &Overlay, path: &Path, cause: &str) -> Error {
    refusal(overlay, format!("cannot read the header of {}: {cause}", path.display()), look_first(overlay, path))
}

/// The journal does not identify the overlay and its base: an earlier release did not record it.
pub(super) fn unmarked(overlay: &Overlay, seat: Option<&Seat>) -> Error {
    let path = overlay.path.display();
    let message = format!("the journal does not identify the overlay {path} and the image below it");
    let by_hand = look_first(overlay, &overlay.path);
    let hint = match seat {
        Some(seat) => format!(
            "Start the guest, so that its QEMU can commit the overlay: virsh start {}; or {by_hand}",
            quoted(&seat.domain.id.name)
        ),
        None => by_hand,
    };
    refusal(overlay, message, hint)
}

/// Somebody's own image lies over the overlay.
pub(super) fn covered(overlay: &Overlay, seat: &Seat) -> Error {
    let start = match seat.domain.state.is_active() {
        true => String::new(),
        false => format!("virsh start {} and ", quoted(&seat.domain.id.name)),
    };
    let hint = format!("Commit it into the overlay: {start}{}", into_overlay(overlay, seat));
    refusal(overlay, format!("{} over the overlay {}", on_another(seat), overlay.path.display()), hint)
}

/// A definition names somebody's own image over an overlay that is gone, as after a commit on another host.
pub(super) fn over_nothing(overlay: &Overlay, seat: &Seat) -> Error {
    let message = format!("{} over the overlay {}, which does not exist", on_another(seat), overlay.path.display());
    let domain = quoted(&seat.domain.id.name);
    let hint = format!("If its data was committed, set {} as the disk's source: virsh edit {domain}", base(overlay));
    refusal(overlay, message, hint)
}

fn on_another(seat: &Seat) -> String {
    let above = seat.above.as_ref().and_then(|image| image.source.path());
    let above = above.map_or_else(|| "another image".to_owned(), |path| path.display().to_string());
    format!("{} is on {above}", seat.domain.id.name)
}

/// What commits the image over the overlay into that, while the guest runs.
fn into_overlay(overlay: &Overlay, seat: &Seat) -> String {
    let (domain, target) = (quoted(&seat.domain.id.name), quoted(&seat.target));
    format!("virsh blockcommit {domain} {target} --active --pivot --wait --base {}", file(overlay))
}

fn base(overlay: &Overlay) -> String {
    overlay.base.source.path().map_or_else(|| "its base".into(), |path| quoted(&path.to_string_lossy()))
}

/// A disk was put on the overlay while its data was moved.
pub(super) fn taken(overlay: &Overlay, seat: &Seat) -> Error {
    if seat.above.is_some() {
        return covered(overlay, seat);
    }
    let message = format!("{} was moved to the overlay {} meanwhile", seat.domain.id.name, overlay.path.display());
    refusal(overlay, message, "Wait until no other program changes the domain".into())
}

/// The overlay does not lie over the image of the backup, and nothing may be committed into the one that it lies over.
pub(super) fn changed(overlay: &Overlay, seat: Option<&Seat>, below: Option<&Image>) -> Error {
    let below = below.and_then(|image| image.source.path());
    let below = below.map_or_else(|| "no known image".to_owned(), |path| path.display().to_string());
    let path = overlay.path.display();
    let over = format!("the overlay {path}, which lies over {below} and not over the image of the backup");
    let Some(seat) = seat else {
        let file = file(overlay);
        let hint = format!(
            "No disk uses it. Keep its contents, if they matter, in a separate image, and remove it: qemu-img convert -O qcow2 \
             {file} NEWFILE && rm {file}"
        );
        return refusal(overlay, format!("the guest wrote to {over}"), hint);
    };
    let domain = quoted(&seat.domain.id.name);
    let start = if seat.domain.state.is_active() { String::new() } else { format!("virsh start {domain} and ") };
    let hint = format!(
        "Move the guest to a new image: {start}virsh blockcopy {domain} {} --dest NEWFILE --format qcow2 \
         --transient-job --wait --pivot; and remove the overlay: rm {}",
        quoted(&seat.target),
        file(overlay)
    );
    refusal(overlay, format!("{} is on {over}", seat.domain.id.name), hint)
}

/// The guest was on the base already and was put on the overlay again: neither of the two is right alone.
pub(super) fn stale(overlay: &Overlay, seat: &Seat) -> Error {
    let message = format!(
        "it is on the overlay {} again, which was already committed and is older than its base",
        overlay.path.display()
    );
    let hint = format!(
        "The disk mixes old and new data. Keep a copy of the overlay if what the guest wrote since matters, and power \
         the guest off, which returns it to the base: virsh destroy {}",
        quoted(&seat.domain.id.name)
    );
    refusal(overlay, message, hint)
}

/// The domain is not here any more. It may have been moved to another host and run there, on the overlay.
pub(super) fn domain_gone(overlay: &Overlay) -> Error {
    let path = overlay.path.display();
    let hint = format!("Make sure that no other host runs the domain; {}", by_hand(overlay));
    refusal(overlay, format!("the domain no longer exists, but the overlay {path} holds guest data"), hint)
}

/// The disk is on the base, and not by us.
pub(super) fn abandoned(overlay: &Overlay, seat: &Seat) -> Error {
    let message = format!(
        "the definition of {} names the base, but the overlay {} holds guest data",
        seat.domain.id.name,
        overlay.path.display()
    );
    let hint = match seat.above {
        // The base carries another image, which a commit would damage.
        Some(_) => {
            format!("Nothing uses the overlay. Keep a copy if its data matters, and remove it: rm {}", file(overlay))
        }
        None => format!(
            "Decide which one is correct. If it is the base, remove the overlay: rm {}; if it is the overlay, with \
             the guest off: {}",
            file(overlay),
            by_hand(overlay)
        ),
    };
    refusal(overlay, message, hint)
}

/// One definition names the overlay, another one the base.
pub(super) fn divided(overlay: &Overlay, upper: &Seat, lower: &Seat) -> Error {
    let kind = |seat: &Seat| if seat.live { "the running guest" } else { "the definition of" };
    let (upper_name, lower_name) = (&upper.domain.id.name, &lower.domain.id.name);
    let message = format!(
        "{} {upper_name} is on the overlay {}, and {} {lower_name} on the base below it",
        kind(upper),
        overlay.path.display(),
        kind(lower)
    );
    let domain = quoted(upper_name);
    let hint = format!(
        "Decide which one is correct; remove the disk from {}: virsh detach-disk {domain} {} --config",
        if upper.live { "the guest" } else { "that definition" },
        quoted(&upper.target)
    );
    refusal(overlay, message, hint)
}

/// A definition names an overlay that is not there, and may come back.
pub(super) fn missing(overlay: &Overlay, seat: &Seat) -> Error {
    let message = format!(
        "the definition of {} names the overlay {}, which does not exist, and its directory is missing or empty",
        seat.domain.id.name,
        overlay.path.display()
    );
    let folder = overlay.path.parent().unwrap_or(&overlay.path).to_string_lossy();
    refusal(overlay, message, format!("Mount the file system of {}", quoted(&folder)))
}

/// The guest's saved state may name the overlay.
pub(super) fn saved(overlay: &Overlay, domain: &str) -> Error {
    let name = quoted(domain);
    let message = format!("the saved state of {domain} may need the overlay {}", overlay.path.display());
    let hint = format!("Start it: virsh start {name}; or discard its saved state: virsh managedsave-remove {name}");
    refusal(overlay, message, hint)
}

/// The guest may run on another host, with somebody's own image over the overlay.
pub(super) fn migrated(overlay: &Overlay, domain: &str, covered: Option<&Seat>) -> Error {
    let name = quoted(domain);
    let first = covered.map_or_else(String::new, |seat| format!("{} && ", into_overlay(overlay, seat)));
    let message =
        format!("{domain} was migrated and may run on another host with the overlay {}", overlay.path.display());
    let hint = format!(
        "If it runs on the other host, commit it there: {first}virsh blockcommit {name} {} --active --shallow --pivot \
         --wait, and rm {}; if it does not run anywhere, start it here: virsh start {name}",
        quoted(&overlay.target),
        file(overlay)
    );
    refusal(overlay, message, hint)
}

/// A guest that was saved to a file of the operator's (`virsh save`) goes on with the overlay that the file names, which is gone.
pub(super) fn saved_to_file(overlay: &Overlay, seat: &Seat) -> Failure {
    let base = overlay.base.source.path().map_or_else(|| "its base".into(), |path| path.display().to_string());
    let message = format!(
        "disk {} of {}: it is on its base {base} again; a file that `virsh save` wrote during the backup still names \
         the overlay {}, which was removed",
        seat.target,
        seat.domain.id.name,
        overlay.path.display()
    );
    let hint = format!(
        "Before `virsh restore FILE`, run virsh save-image-edit FILE; set {base} as the disk's <source> and remove \
         its <backingStore>"
    );
    Failure { message, hint: Some(hint) }
}

/// The commit is over, and the guest is still on the overlay. Neither libvirt nor the log of QEMU says why.
pub(super) fn commit_ended(overlay: &Overlay) -> Error {
    let hint = format!(
        "Free space if its file system is full, and look for I/O errors: df -h {}; dmesg | tail",
        base(overlay)
    );
    refusal(overlay, "its commit ended early".into(), hint)
}

/// A block job of somebody else runs on the disk.
pub(super) fn busy(overlay: &Overlay, seat: &Seat) -> Error {
    let (domain, target) = (quoted(&seat.domain.id.name), quoted(&seat.target));
    let message = "another block job is running on it, so its overlay cannot be committed".into();
    refusal(overlay, message, format!("Wait for it, or abort it: virsh blockjob {domain} {target} --abort"))
}

/// Something else uses the overlay or its base; `image` is what a domain has over the overlay.
pub(super) fn used(overlay: &Overlay, user: &User, image: Option<&Path>) -> Error {
    let base = base(overlay);
    let hint = match (user, image) {
        (User::Domain(one), Some(image)) => format!(
            "With {} off, rebase its image to the base: qemu-img rebase -u -f qcow2 -F {} -b {base} {}",
            one.domain.name,
            overlay.base.format.driver(),
            quoted(&image.to_string_lossy())
        ),
        (User::Domain(one), None) => {
            format!("Set {base} in that definition instead: virsh edit {}", quoted(&one.domain.name))
        }
        (User::Host(in_use::User::Process { guest: Some(guest), .. }), _) => {
            format!("Wait until the guest releases it, or shut it down: virsh shutdown {}", quoted(guest))
        }
        (User::Host(in_use::User::Process { pid, .. }), _) => format!("Stop it: kill {pid}"),
        (User::Host(in_use::User::Loop(name)), _) => format!("Detach it: losetup -d /dev/{name}"),
    };
    refusal(overlay, format!("the overlay {} or the image below it is in use by {user}", overlay.path.display()), hint)
}
