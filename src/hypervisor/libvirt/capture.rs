//! Requests for snapshots and backup jobs in libvirt's XML. Must not clean up after them; the engine does.
//!
//! Every request names every disk of the domain. libvirt snapshots a disk that is not named, unless its definition has
//! `snapshot='no'`; then libvirt omits it without an error. A disk that was attached after the domain was described cannot be
//! named, so the name in [`SNAPSHOT`] makes the snapshot fail in that case.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use virt::domain::Domain as Handle;
use virt::enumutil::Enum;
use virt::error::ErrorNumber;

use super::{call, ffi};
use crate::hypervisor::domain_xml::escape;
use crate::hypervisor::{Error, Overlay, PullJob};
use crate::model::DomainRef;

/// Where libvirt has one directory per running domain in which QEMU may create sockets, even under AppArmor.
const DOMAIN_FOLDERS: &str = "/var/lib/libvirt/qemu";

/// The start of the snapshot's name. For a disk that is not named, libvirt would create an overlay `IMAGE.NAME`. A name of
/// length [`TOO_LONG`] makes that impossible, so the whole snapshot fails before anything changes.
const SNAPSHOT: &str = "kvmbackup-only-disks-that-were-planned-";
/// `PATH_MAX`: no path is longer.
const TOO_LONG: usize = 4096;

pub(super) fn snapshot(
    handle: &Handle,
    domain: &DomainRef,
    overlays: &[Overlay],
    others: &[String],
) -> Result<(), Error> {
    let flags = virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        | virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA;
    handle
        .create_snapshot_xml(&snapshot_xml(overlays, others), flags)
        .map(drop)
        .map_err(|source| call(domain, "take a snapshot", source))
}

fn snapshot_xml(overlays: &[Overlay], others: &[String]) -> String {
    let mut xml = format!("<domainsnapshot><name>{SNAPSHOT:x<TOO_LONG$}</name><disks>");
    for overlay in overlays {
        let (target, path) = (escape(&overlay.target), escape_path(&overlay.path));
        let _ = write!(
            xml,
            "<disk name='{target}' snapshot='external' type='file'><driver type='qcow2'/><source file='{path}'/></disk>"
        );
    }
    for target in others {
        let _ = write!(xml, "<disk name='{}' snapshot='no'/>", escape(target));
    }
    xml.push_str("</disks></domainsnapshot>");
    xml
}

pub(super) fn socket_path(handle: &Handle, name: &str) -> Option<PathBuf> {
    let prefix = format!("domain-{}-", handle.id()?);
    std::fs::read_dir(DOMAIN_FOLDERS)
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path().join(name))
}

pub(super) fn begin_pull(handle: &Handle, domain: &DomainRef, job: &PullJob, others: &[String]) -> Result<(), Error> {
    let checkpoint = job.checkpoint.as_ref().map(|name| checkpoint_xml(name, job, others));
    ffi::backup_begin(handle, &pull_xml(job, others), checkpoint.as_deref())
        .map_err(|source| call(domain, "start a backup job", source))
}

fn pull_xml(job: &PullJob, others: &[String]) -> String {
    let mut xml =
        format!("<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks>", escape_path(&job.socket));
    for scratch in &job.scratch {
        let (target, path) = (escape(&scratch.target), escape_path(&scratch.path));
        let _ = write!(
            xml,
            "<disk name='{target}' backup='yes' type='file' exportname='{target}'{}><scratch file='{path}'/></disk>",
            scratch.since.as_deref().map(changes).unwrap_or_default()
        );
    }
    for target in others {
        let _ = write!(xml, "<disk name='{}' backup='no'/>", escape(target));
    }
    xml.push_str("</disks></domainbackup>");
    xml
}

/// The attributes that export the changes since a checkpoint.
fn changes(since: &str) -> String {
    let since = escape(since);
    format!(" backupmode='incremental' incremental='{since}' exportbitmap='{since}'")
}

fn checkpoint_xml(name: &str, job: &PullJob, others: &[String]) -> String {
    let name = escape(name);
    let mut xml = format!("<domaincheckpoint><name>{name}</name><disks>");
    let captured = job.scratch.iter().map(|scratch| (&scratch.target, scratch.tracked));
    for (target, tracked) in captured.chain(others.iter().map(|target| (target, false))) {
        let kind = if tracked { "bitmap" } else { "no" };
        let _ = write!(xml, "<disk name='{}' checkpoint='{kind}'/>", escape(target));
    }
    xml.push_str("</disks></domaincheckpoint>");
    xml
}

/// Does not use `job_stats` of the crate `virt`, which is unsound if no job runs: it makes a vector from a null pointer.
pub(super) fn pull_socket(handle: &Handle, domain: &DomainRef) -> Result<Option<PathBuf>, Error> {
    let xml = match ffi::backup_xml(handle) {
        Ok(xml) => xml,
        Err(error) if error.code() == Enum::Known(ErrorNumber::NoDomainBackup) => return Ok(None),
        Err(source) => return Err(call(domain, "get its backup job", source)),
    };
    let socket = roxmltree::Document::parse(&xml).ok().and_then(|document| {
        document
            .descendants()
            .find(|node| node.has_tag_name("server"))
            .and_then(|server| server.attribute("socket").map(PathBuf::from))
    });
    Ok(Some(socket.unwrap_or_default()))
}

fn escape_path(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Scratch;
    use crate::model::{Format, Image, Source};

    #[test]
    fn snapshot_xml_names_every_disk_and_escapes_paths() {
        let overlays = [Overlay {
            target: "vda".into(),
            path: "/v/it's <a> & \"b\".qcow2".into(),
            base: Image { source: Source::File("/v/a".into()), format: Format::Qcow2 },
            saved: None,
            marks: None,
        }];
        let xml = snapshot_xml(&overlays, &["sda".into()]);
        let document = roxmltree::Document::parse(&xml).unwrap();
        let sources: Vec<_> = document.descendants().filter_map(|node| node.attribute("file")).collect();
        assert_eq!(sources, ["/v/it's <a> & \"b\".qcow2"]);
        assert!(xml.contains("<disk name='sda' snapshot='no'/>"));
    }

    #[test]
    fn pull_and_checkpoint_name_every_disk() {
        let changed =
            Scratch { target: "vda".into(), path: "/x".into(), since: Some("kvmbackup-1".into()), tracked: true };
        let whole = Scratch { target: "vdb".into(), path: "/y".into(), ..Scratch::default() };
        let job = PullJob { socket: "/s".into(), scratch: vec![changed, whole], checkpoint: None };
        let xml = pull_xml(&job, &["vdc".into()]);
        let incremental = "backupmode='incremental' incremental='kvmbackup-1' exportbitmap='kvmbackup-1'";
        for part in [
            &format!("<disk name='vda' backup='yes' type='file' exportname='vda' {incremental}><scratch"),
            "<disk name='vdb' backup='yes' type='file' exportname='vdb'><scratch",
            "<disk name='vdc' backup='no'/>",
        ] {
            assert!(xml.contains(part), "{xml}");
        }
        let disks = "<disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='no'/><disk name='vdc' checkpoint='no'/>";
        let xml = checkpoint_xml("kvmbackup-2", &job, &["vdc".into()]);
        assert_eq!(xml, format!("<domaincheckpoint><name>kvmbackup-2</name><disks>{disks}</disks></domaincheckpoint>"));
    }
}
