//! Owns: snapshots and backup jobs as libvirt wants them asked for. Must not: clean up after them; the engine does.
//!
//! Every disk of the domain is named: libvirt leaves out, without any error, a disk that is not and whose definition
//! says `snapshot='no'`, and takes in what nobody asked for. A disk that is attached after its domain was described cannot
//! be named: [`SNAPSHOT`] sees to it that libvirt makes no overlay for it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use virt::domain::Domain as Handle;
use virt::enumutil::Enum;
use virt::error::ErrorNumber;

use super::{call, ffi};
use crate::hypervisor::domain_xml::escape;
use crate::hypervisor::{Error, Overlay, PullJob};
use crate::model::DomainRef;

/// Where libvirt keeps a folder for each running domain in which its QEMU may make sockets, AppArmor included.
const DOMAIN_FOLDERS: &str = "/var/lib/libvirt/qemu";

/// The beginning of a snapshot's name. libvirt makes an overlay of its own for a disk that the snapshot does not name, and
/// calls it `IMAGE.NAME`: with a name of [`TOO_LONG`] it cannot, and the whole snapshot fails before anything is done.
const SNAPSHOT: &str = "kvmbackup-only-disks-that-were-planned-";
/// Longer than any path may be (`PATH_MAX`).
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
    ffi::backup_begin(handle, &pull_xml(job, others)).map_err(|source| call(domain, "start a backup job", source))
}

fn pull_xml(job: &PullJob, others: &[String]) -> String {
    let mut xml =
        format!("<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks>", escape_path(&job.socket));
    for scratch in &job.scratch {
        let (target, path) = (escape(&scratch.target), escape_path(&scratch.path));
        let _ = write!(
            xml,
            "<disk name='{target}' backup='yes' type='file' exportname='{target}'><scratch file='{path}'/></disk>"
        );
    }
    for target in others {
        let _ = write!(xml, "<disk name='{}' backup='no'/>", escape(target));
    }
    xml.push_str("</disks></domainbackup>");
    xml
}

/// The crate's `job_stats` must not be asked whether a job runs: without one, libvirt hands it a null list, of which it
/// makes a vector.
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
    fn names_every_disk_and_escapes() {
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
    fn pull_names_every_disk() {
        let job = PullJob { socket: "/s".into(), scratch: vec![Scratch { target: "vda".into(), path: "/x".into() }] };
        let xml = pull_xml(&job, &["vdb".into()]);
        assert!(xml.contains("<disk name='vda' backup='yes'") && xml.contains("<disk name='vdb' backup='no'/>"));
    }
}
