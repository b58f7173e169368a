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
        "see what it is: ls -l {seen}; qemu-img info -U {seen}; if it is right, with the guest off: {by_hand}; if it is not, keep a \
         copy, and: rm {file}"
    )
}

/// Another file has the name of the overlay or of its base.
pub(super) fn replaced(overlay: &Overlay, path: &Path) -> Error {
    let message = format!(
        "{} is not the file that it was at the backup: it was copied or replaced, and nothing is committed from or into it",
        path.display()
    );
    refusal(overlay, message, look_first(overlay, path))
}

/// An image of a guest that is off names a data file, which could be any file.
pub(super) fn data_file(overlay: &Overlay, path: &Path, name: &str) -> Error {
    let message =
        format!("the header of {} names the data file {name}, which only the guest's QEMU may follow", path.display());
    refusal(overlay, message, look_first(overlay, path))
}

/// The header of an image cannot be read.
pub(super) fn unreadable(overlay: &Overlay, path: &Path, cause: &str) -> Error {
    refusal(overlay, format!("the header of {} cannot be read: {cause}", path.display()), look_first(overlay, path))
}

/// The journal does not identify the overlay and its base: an earlier release did not record it.
pub(super) fn unmarked(overlay: &Overlay, seat: Option<&Seat>) -> Error {
    let path = overlay.path.display();
    let message =
        format!("the journal does not tell which file the overlay {path} or the image below it was at the backup");
    let by_hand = look_first(overlay, &overlay.path);
    let hint = match seat {
        Some(seat) => format!(
            "start the guest, whose QEMU commits it with its own rights: virsh start {}; or {by_hand}",
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
    let hint = format!("commit it into the overlay: {start}{}", into_overlay(overlay, seat));
    refusal(overlay, format!("{} over the overlay {}", on_another(seat), overlay.path.display()), hint)
}

/// A definition names somebody's own image over an overlay that is gone, as after a commit on another host.
pub(super) fn over_nothing(overlay: &Overlay, seat: &Seat) -> Error {
    let message = format!("{} over the overlay {}, which does not exist", on_another(seat), overlay.path.display());
    let domain = quoted(&seat.domain.id.name);
    let hint =
        format!("if its data was committed, name {} as the disk's source instead: virsh edit {domain}", base(overlay));
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
    let message = format!("{} was put on the overlay {} meanwhile", seat.domain.id.name, overlay.path.display());
    refusal(overlay, message, "wait until nobody changes the domain".into())
}

/// The overlay does not lie over the image of the backup, and nothing may be committed into the one that it lies over.
pub(super) fn changed(overlay: &Overlay, seat: Option<&Seat>, below: Option<&Image>) -> Error {
    let below = below.and_then(|image| image.source.path());
    let below = below.map_or_else(|| "no image that is known".to_owned(), |path| path.display().to_string());
    let path = overlay.path.display();
    let over = format!("the overlay {path}, which lies over {below} and not over the image of the backup");
    let Some(seat) = seat else {
        let file = file(overlay);
        let hint = format!(
            "no disk is on it: keep its contents, if they matter, in an image of their own, and remove it: qemu-img convert -O qcow2 \
             {file} NEWFILE && rm {file}"
        );
        return refusal(overlay, format!("the guest wrote to {over}"), hint);
    };
    let domain = quoted(&seat.domain.id.name);
    let start = if seat.domain.state.is_active() { String::new() } else { format!("virsh start {domain} and ") };
    let hint = format!(
        "move the guest to an image of its own, say by: {start}virsh blockcopy {domain} {} --dest NEWFILE --format qcow2 \
         --transient-job --wait --pivot; and remove the overlay: rm {}",
        quoted(&seat.target),
        file(overlay)
    );
    refusal(overlay, format!("{} is on {over}", seat.domain.id.name), hint)
}

/// The guest was on the base already and was put on the overlay again: neither of the two is right alone.
pub(super) fn stale(overlay: &Overlay, seat: &Seat) -> Error {
    let message = format!(
        "it is on the overlay {} again, which was committed already and is older than the base below it",
        overlay.path.display()
    );
    let hint = format!(
        "its disk mixes old and new; keep a copy of the overlay if what the guest wrote since matters, and turn the guest off, \
         which goes back to the base: virsh destroy {}",
        quoted(&seat.domain.id.name)
    );
    refusal(overlay, message, hint)
}

/// The domain is not here any more. It may have been moved to another host and run there, on the overlay.
pub(super) fn domain_gone(overlay: &Overlay) -> Error {
    let path = overlay.path.display();
    let hint = format!("see that no other host runs the domain; {}", by_hand(overlay));
    refusal(overlay, format!("the domain is gone, but the overlay {path} holds data of the guest"), hint)
}

/// The disk is on the base, and not by us.
pub(super) fn abandoned(overlay: &Overlay, seat: &Seat) -> Error {
    let message = format!(
        "the definition of {} names the base, but the overlay {} holds data of the guest",
        seat.domain.id.name,
        overlay.path.display()
    );
    let hint = match seat.above {
        // The base carries another image, which a commit would damage.
        Some(_) => format!("nothing uses the overlay: keep a copy if its data matters, and rm {}", file(overlay)),
        None => format!(
            "decide which is right: if the base is, rm {}; if the overlay is, with the guest off: {}",
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
        "decide which is right; take the disk out of {}: virsh detach-disk {domain} {} --config",
        if upper.live { "the guest" } else { "that definition" },
        quoted(&upper.target)
    );
    refusal(overlay, message, hint)
}

/// A definition names an overlay that is not there, and may come back.
pub(super) fn missing(overlay: &Overlay, seat: &Seat) -> Error {
    let message = format!(
        "the definition of {} names the overlay {}, which does not exist, and neither does its folder or anything in it",
        seat.domain.id.name,
        overlay.path.display()
    );
    let folder = overlay.path.parent().unwrap_or(&overlay.path).to_string_lossy();
    refusal(overlay, message, format!("mount the file system of {}", quoted(&folder)))
}

/// The guest's saved state may name the overlay.
pub(super) fn saved(overlay: &Overlay, domain: &str) -> Error {
    let name = quoted(domain);
    let message = format!("the saved state of {domain} may need the overlay {}", overlay.path.display());
    let hint = format!("start it: virsh start {name}; or drop its saved state: virsh managedsave-remove {name}");
    refusal(overlay, message, hint)
}

/// The guest may run on another host, with somebody's own image over the overlay.
pub(super) fn migrated(overlay: &Overlay, domain: &str, covered: Option<&Seat>) -> Error {
    let name = quoted(domain);
    let first = covered.map_or_else(String::new, |seat| format!("{} && ", into_overlay(overlay, seat)));
    let message = format!("{domain} was migrated, and may run elsewhere on the overlay {}", overlay.path.display());
    let hint = format!(
        "if it runs on the other host, commit it there: {first}virsh blockcommit {name} {} --active --shallow --pivot --wait, and rm {}; \
         if it runs nowhere, start it here: virsh start {name}",
        quoted(&overlay.target),
        file(overlay)
    );
    refusal(overlay, message, hint)
}

/// A guest that was saved to a file of the operator's (`virsh save`) goes on with the overlay that the file names, which is gone.
pub(super) fn saved_to_file(overlay: &Overlay, seat: &Seat) -> Failure {
    let base = overlay.base.source.path().map_or_else(|| "its base".into(), |path| path.display().to_string());
    let message = format!(
        "disk {} of {}: it is on its base {base} again; a file that `virsh save` wrote during the backup still names the \
         overlay {}, which is removed",
        seat.target,
        seat.domain.id.name,
        overlay.path.display()
    );
    let hint = format!(
        "before `virsh restore FILE`: virsh save-image-edit FILE; there, name {base} as the disk's <source> and take its \
         <backingStore> out"
    );
    Failure { message, hint: Some(hint) }
}

/// The commit is over, and the guest is still on the overlay. Neither libvirt nor the log of QEMU says why.
pub(super) fn commit_ended(overlay: &Overlay) -> Error {
    let hint =
        format!("make room if its file system is full, and look for I/O errors: df -h {}; dmesg | tail", base(overlay));
    refusal(overlay, "its commit ended before it was done".into(), hint)
}

/// A block job of somebody else runs on the disk.
pub(super) fn busy(overlay: &Overlay, seat: &Seat) -> Error {
    let (domain, target) = (quoted(&seat.domain.id.name), quoted(&seat.target));
    let message = "another block job runs on it, so its overlay cannot be committed".into();
    refusal(overlay, message, format!("wait for it, or end it: virsh blockjob {domain} {target} --abort"))
}

/// Something else uses the overlay or its base; `image` is what a domain has over the overlay.
pub(super) fn used(overlay: &Overlay, user: &User, image: Option<&Path>) -> Error {
    let base = base(overlay);
    let hint = match (user, image) {
        (User::Domain(one), Some(image)) => format!(
            "with {} off, put its image on the base: qemu-img rebase -u -f qcow2 -F {} -b {base} {}",
            one.domain.name,
            overlay.base.format.driver(),
            quoted(&image.to_string_lossy())
        ),
        (User::Domain(one), None) => {
            format!("name {base} in that definition instead: virsh edit {}", quoted(&one.domain.name))
        }
        (User::Host(in_use::User::Process { guest: Some(guest), .. }), _) => {
            format!("wait until the guest has released it, or shut it down: virsh shutdown {}", quoted(guest))
        }
        (User::Host(in_use::User::Process { pid, .. }), _) => format!("end it: kill {pid}"),
        (User::Host(in_use::User::Loop(name)), _) => format!("detach it: losetup -d /dev/{name}"),
    };
    refusal(overlay, format!("the overlay {} or the image below it is in use by {user}", overlay.path.display()), hint)
}
