//! Owns: the messages for an overlay that holds an operator's snapshots or bitmaps. Must not: ask or change anything.

use super::{Error, Failure, Overlay, Seat, file, quoted, refusal};

/// Internal snapshots that an operator took during the backup lie in the overlay.
pub(in crate::engine::settle) fn snapshots(overlay: &Overlay, names: &[String], seat: Option<&Seat>) -> Error {
    let listed = names.join(", ");
    let message = format!("the overlay {} holds the internal snapshot {listed}", overlay.path.display());
    let each =
        |command: &str| names.iter().map(|name| format!("{command} {}", quoted(name))).collect::<Vec<_>>().join(" && ");
    let of_file = names.iter().map(|name| format!("qemu-img snapshot -d {} {}", quoted(name), file(overlay)));
    let of_file = of_file.collect::<Vec<_>>().join(" && ");
    let hint = match seat {
        Some(seat) => format!(
            "When it is no longer needed: {} (if libvirt does not list it, with the guest off: {of_file})",
            each(&format!("virsh snapshot-delete {}", quoted(&seat.domain.id.name)))
        ),
        None => format!("When it is no longer needed: {of_file}"),
    };
    refusal(overlay, message, hint)
}

/// A snapshot was taken right before the commit began, which then has changed the image below it.
pub(in crate::engine::settle) fn late_snapshot(refused: &Error) -> Failure {
    Failure {
        message: format!("{refused}, created when its commit began; data written since then may be in the snapshot"),
        hint: Some("Create the snapshot again after the backup".into()),
    }
}

/// Bitmaps of a checkpoint that was made during the backup lie in the overlay; only a running QEMU takes them along.
pub(in crate::engine::settle) fn bitmaps(overlay: &Overlay, names: &[String], seat: Option<&Seat>) -> Error {
    let message = format!(
        "the overlay {} holds the bitmap {}, which would be lost by committing it while the guest is off",
        overlay.path.display(),
        names.join(", ")
    );
    let of_file = names.iter().map(|name| format!("qemu-img bitmap --remove {} {}", file(overlay), quoted(name)));
    let of_file = of_file.collect::<Vec<_>>().join(" && ");
    let hint = match seat {
        Some(seat) => format!(
            "Start the guest, because the commit of a running guest keeps checkpoints: virsh start {}; or remove the \
             bitmap: {of_file}",
            quoted(&seat.domain.id.name)
        ),
        None => format!("Remove it: {of_file}"),
    };
    refusal(overlay, message, hint)
}
