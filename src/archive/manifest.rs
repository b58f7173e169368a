//! Owns: `manifest.json`, what an archive says about itself. Must not: describe how a domain is captured or restored.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Error, MANIFEST};
use crate::model::{
    Consistency, DomainRef, DomainState, Failure, Format, HookResult, Image, Method, NotSaved, Owner, PointId,
    SkippedDisk, Source,
};

/// The format that this program writes, and the newest it reads. Raised when a reader of the older one would go wrong;
/// a field that such a reader may overlook does not raise it.
pub const FORMAT: u32 = 1;

/// The domain XML as it was.
pub const DOMAIN_XML: &str = "domain.xml";

/// The domain XML as at its next start.
pub const DOMAIN_INACTIVE_XML: &str = "domain-inactive.xml";

/// The domain XML fit for another host.
pub const DOMAIN_MIGRATABLE_XML: &str = "domain-migratable.xml";

/// The name of a disk's member.
pub fn disk_member(target: &str) -> String {
    format!("disks/{target}.qcow2")
}

/// What an archive says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The program and its version, for people: `kvmbackup 0.1.0`.
    pub program: String,
    /// The run that wrote it.
    pub run_id: Uuid,
    /// The restore point; its time is that of the capture.
    pub point: PointId,
    /// The host section of the configuration.
    pub host: String,
    /// The domain.
    pub domain: DomainRef,
    /// What the domain was doing.
    pub state: DomainState,
    /// How it was captured.
    pub method: Method,
    /// Why this method, where it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method_reason: Option<String>,
    /// What was reached.
    pub consistency: Consistency,
    /// Whether a freeze of the guest's file systems was asked for.
    pub quiesce_asked: bool,
    /// How long they were frozen, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
    /// The disks in the archive, in the order of the XML.
    pub disks: Vec<DiskEntry>,
    /// The disks that are not in it.
    pub skipped: Vec<SkippedDisk>,
    /// UEFI variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvram: Option<FileEntry>,
    /// What a direct-boot guest starts from, and firmware that the guest writes.
    #[serde(default)]
    pub boot: Vec<BootEntry>,
    /// Files of an emulated TPM's state.
    #[serde(default)]
    pub tpm: Vec<FileEntry>,
    /// Why the state of an emulated TPM is not in the archive, where the domain has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm_missing: Option<String>,
    /// Why it may not hold what it should, as when a disk has become empty: while the newest restore point is suspect,
    /// rotation removes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<String>,
    /// What belongs to the guest and is not in the archive, disks aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_saved: Vec<NotSaved>,
    /// What to know although it went well.
    #[serde(default)]
    pub warnings: Vec<Failure>,
    /// What became of the operator's hooks, as far as it was known before the disks were read.
    #[serde(default)]
    pub hooks: Vec<HookResult>,
    /// The members that hooks left.
    #[serde(default)]
    pub artifacts: Vec<String>,
}

/// A disk in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEntry {
    /// The guest's name for it.
    pub target: String,
    /// The member that holds it, always a flat qcow2.
    pub member: String,
    /// Its size as the guest sees it, in bytes.
    pub virtual_bytes: u64,
    /// Bytes read from it: what was allocated.
    pub read_bytes: u64,
    /// Where it was.
    pub source: Source,
    /// The format it had there.
    pub format: Format,
    /// The images it was based on, nearest first; for information, their contents are in the member.
    #[serde(default)]
    pub backing: Vec<Image>,
    /// Whose the image file was; `None` where the disk was no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// QEMU encrypted the image (LUKS); the member is not encrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// It is much smaller than in the restore points before, or holds much less: those stay until this is resolved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shrunk: bool,
}

/// A file of the host in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The member that holds it.
    pub member: String,
    /// Where it was.
    pub path: PathBuf,
    /// It was a block device there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub device: bool,
}

/// A file that a direct-boot guest starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEntry {
    /// The element of the domain XML (`kernel`, `initrd`, `dtb`, `loader`).
    pub element: String,
    /// The member that holds it.
    pub member: String,
    /// Where it was.
    pub path: PathBuf,
}

impl Manifest {
    /// The names of the members that an archive with this manifest must have, `SHA256SUMS` aside.
    pub fn members(&self) -> Vec<&str> {
        let always = [MANIFEST, DOMAIN_XML, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML];
        let files = self.nvram.iter().chain(&self.tpm).map(|file| &file.member);
        let boot = self.boot.iter().map(|boot| &boot.member);
        let disks = self.disks.iter().map(|disk| &disk.member);
        always.into_iter().chain(files.chain(boot).chain(&self.artifacts).chain(disks).map(String::as_str)).collect()
    }

    /// The bytes of `manifest.json`. A path that is not UTF-8 is an error.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|source| Error::MakeManifest { source })?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads `manifest.json`; a newer format is an error of its own.
    pub fn from_json(json: &[u8]) -> Result<Manifest, Error> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = |source| Error::Manifest { source };
        let Head { format } = serde_json::from_slice(json).map_err(damaged)?;
        match format {
            FORMAT => serde_json::from_slice(json).map_err(damaged),
            _ => Err(Error::NewerFormat { format }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::manifest;

    #[test]
    fn every_version_that_was_written_is_read() {
        crate::model::version::history::assert_read("manifest", Manifest::from_json, |manifest| {
            manifest.to_json().unwrap()
        });
    }

    #[test]
    fn round_trips_and_refuses_newer_formats() {
        let manifest = manifest(&["vda", "vdb"]);
        let json = manifest.to_json().unwrap();
        assert_eq!(Manifest::from_json(&json).unwrap(), manifest);
        let newer = String::from_utf8(json).unwrap().replace("\"format\": 1,", "\"format\": 2, \"new\": {},");
        let error = Manifest::from_json(newer.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { format: 2 }));
        assert!(error.hint().is_some());
        assert!(Manifest::from_json(b"{}").is_err());
    }

    #[test]
    fn every_file_that_it_speaks_of_is_a_member() {
        let mut manifest = manifest(&["vda", "vdb"]);
        manifest.artifacts = vec!["artifacts/dump.sql".to_owned()];
        assert_eq!(
            manifest.members(),
            [
                "manifest.json",
                "domain.xml",
                "domain-inactive.xml",
                "domain-migratable.xml",
                "artifacts/dump.sql",
                "disks/vda.qcow2",
                "disks/vdb.qcow2"
            ]
        );
    }
}
