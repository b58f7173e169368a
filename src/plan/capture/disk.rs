//! Owns: what can be done with one disk. Must not: know what happens to the other disks.

use std::borrow::Cow;

use crate::config::DomainSettings;
use crate::model::{Device, Disk, Domain, Failure, Image, SkippedDisk, Source};

const RUNNING: &str = "Back it up while the domain runs.";

/// What happens to a disk, apart from the method.
pub(super) enum DiskVerdict {
    /// It is not saved.
    Skip(SkippedDisk),
    /// The guest may change it while it is read.
    Live(Live),
    /// This guest cannot change this image.
    Direct(Image),
}

/// How a disk that changes can be captured.
pub(super) enum Live {
    SnapshotOrPull,
    /// Why not by a snapshot; reads on from "disk vda is".
    PullOnly(Cow<'static, str>),
}

impl DiskVerdict {
    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            DiskVerdict::Live(live) => Some(live),
            DiskVerdict::Skip(_) | DiskVerdict::Direct(_) => None,
        }
    }
}

/// Judges one disk of a domain.
pub(super) fn judge(disk: &Disk, settings: &DomainSettings, domain: &Domain) -> DiskVerdict {
    let active = domain.state.is_active();
    if settings.exclude_disks.contains(&disk.target) {
        return DiskVerdict::Skip(left_out(disk, "excluded by the configuration"));
    }
    if matches!(disk.device, Device::Cdrom | Device::Floppy) {
        let empty = matches!(disk.image.source, Source::Empty | Source::Unsupported(_));
        return DiskVerdict::Skip(left_out(disk, if empty { "no medium" } else { "removable medium" }));
    }
    if disk.encrypted && !settings.allow_plaintext {
        let hint = "Set `allow_plaintext: true` for this domain to back up the contents of its encrypted disks.";
        let hint = if active { hint.to_owned() } else { format!("{hint} {RUNNING}") };
        return DiskVerdict::Skip(missed(
            disk,
            "encrypted, and its contents would be unencrypted in the archive",
            &hint,
        ));
    }
    match at_rest(disk, active) {
        Some(image) if image.source.path().is_some() && !needs_qemu(disk) => DiskVerdict::Direct(image.clone()),
        _ if !active || disk.transient => DiskVerdict::Skip(unreadable(disk, active)),
        _ if matches!(disk.image.source, Source::Unsupported(_) | Source::Empty) && disk.unknown.is_none() => {
            DiskVerdict::Skip(unreadable(disk, active))
        }
        _ if domain.suspended => DiskVerdict::Live(Live::PullOnly(
            "of a guest that is suspended to memory, which cannot be snapshotted".into(),
        )),
        _ => DiskVerdict::Live(live(disk)),
    }
}

/// Whether what the guest sees is more than its images, read as their formats say.
fn needs_qemu(disk: &Disk) -> bool {
    disk.encrypted || disk.only_qemu.is_some() || disk.unknown.is_some()
}

/// The image that this guest cannot change, if the disk has one.
///
/// What a guest writes to a `<transient/>` disk goes to an overlay that libvirt drops at the guest's stop, and libvirt
/// refuses block jobs on it; what stays is the image below. External snapshots of read-only disks are refused as well.
fn at_rest(disk: &Disk, active: bool) -> Option<&Image> {
    if !active {
        disk.persistent.as_ref().or(Some(&disk.image))
    } else if disk.transient {
        disk.persistent.as_ref().or(disk.backing.first())
    } else {
        disk.readonly.then_some(&disk.image)
    }
}

/// A disk that neither this program nor libvirt can read for us.
fn unreadable(disk: &Disk, active: bool) -> SkippedDisk {
    const EXCLUDE: &str = "If it need not be backed up, add it to `exclude_disks`.";
    if let Some(Failure { message, hint }) = disk.unknown.as_ref().filter(|_| !active) {
        return missed(disk, message, hint.as_deref().unwrap_or(EXCLUDE));
    }
    if let Some(part) = &disk.only_qemu {
        let reason = format!("defined with {part}, which only the domain's QEMU can read");
        return missed(disk, &reason, if active { EXCLUDE } else { RUNNING });
    }
    match &disk.image.source {
        Source::Empty => missed(disk, "source type not supported (no medium)", EXCLUDE),
        Source::Unsupported(kind) => missed(disk, &format!("source type not supported ({kind})"), EXCLUDE),
        _ if active && disk.encrypted => missed(disk, "transient and encrypted, which cannot be read", EXCLUDE),
        _ if active => missed(disk, "transient, and its base image is unknown", "Back it up while the domain is off."),
        _ if disk.encrypted => missed(disk, "encrypted, which only the domain's QEMU can read", RUNNING),
        _ => missed(disk, "on the network, which only the domain's QEMU can read", RUNNING),
    }
}

/// How a disk that the guest can change is captured.
///
/// libvirt's overlays are never encrypted, and its snapshots refuse disks with shared access (`shared access for disk
/// requires use of supported storage format`) and passed-through LUNs.
fn live(disk: &Disk) -> Live {
    if disk.encrypted {
        Live::PullOnly("encrypted, and a snapshot's overlay would not be".into())
    } else if let Some(part) = &disk.only_qemu {
        Live::PullOnly(format!("defined with {part}, which only QEMU can read").into())
    } else if disk.unknown.is_some() {
        Live::PullOnly("a volume with an unknown path, which only QEMU can read".into())
    } else if disk.shareable {
        Live::PullOnly("shareable, which snapshots do not support".into())
    } else if disk.device == Device::Lun {
        Live::PullOnly("a passed-through LUN, which cannot be snapshotted".into())
    } else if matches!(disk.image.source, Source::Network(_)) {
        Live::PullOnly("on the network, where no overlay can be created beside it".into())
    } else if disk.backing.iter().any(|image| image.source.path().is_none()) {
        Live::PullOnly("based on an image that only QEMU can read".into())
    } else {
        Live::SnapshotOrPull
    }
}

/// What to know of a disk that is saved.
pub(super) fn warning(disk: &Disk, active: bool) -> Option<Failure> {
    let (text, hint) = if disk.encrypted {
        (
            "is encrypted, but its contents are unencrypted in the archive",
            Some("Protect the target as well as the disk."),
        )
    } else if disk.transient && active {
        ("is transient: data written since the guest started is not backed up", None)
    } else if disk.shareable && !active {
        ("is shareable: if another domain writes to it during the backup, the backup may be inconsistent", None)
    } else {
        return None;
    };
    Some(Failure { message: format!("disk {} {text}", disk.target), hint: hint.map(str::to_owned) })
}

/// A disk that is not saved against the operator's will.
pub(super) fn missed(disk: &Disk, reason: &str, hint: &str) -> SkippedDisk {
    SkippedDisk { missed: true, hint: Some(hint.to_owned()), ..left_out(disk, reason) }
}

fn left_out(disk: &Disk, reason: &str) -> SkippedDisk {
    SkippedDisk { target: disk.target.clone(), reason: reason.to_owned(), missed: false, hint: None }
}
