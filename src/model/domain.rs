//! Owns: a domain (a libvirt guest) as it is described at one moment. Must not: ask libvirt.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Disk;
use super::outcome::typed_hint;

/// Names one domain; the UUID is its identity, the name is for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DomainRef {
    /// libvirt's name; may hold blanks and any script.
    pub name: String,
    /// libvirt's UUID.
    pub uuid: Uuid,
}

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainState {
    /// The guest runs.
    Running,
    /// The guest is in memory and stands still: paused, suspended, crashed, or shutting down.
    Paused,
    /// There is no guest, only a definition.
    Off,
}

impl DomainState {
    /// Whether there is a QEMU process that holds the disks.
    pub fn is_active(self) -> bool {
        self != DomainState::Off
    }
}

/// The domain XML in the three forms that a restore may need, secrets included.
#[derive(Clone, PartialEq, Eq)]
pub struct DomainXml {
    /// As it is now; for a domain that is off, the same as `inactive`.
    pub live: String,
    /// As it will be at its next start; for a transient domain, the same as `live`.
    pub inactive: String,
    /// Fit for another host's libvirt.
    pub migratable: String,
}

impl std::fmt::Debug for DomainXml {
    /// Shows nothing of the contents: they may hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DomainXml(..)")
    }
}

/// The UEFI variables of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvram {
    /// The file or block device that holds them.
    pub path: PathBuf,
}

/// A file that a guest starts from: of a direct boot, or firmware that it writes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFile {
    /// The element of the domain XML (`kernel`, `initrd`, `dtb`, `loader`).
    pub element: String,
    /// The file.
    pub path: PathBuf,
}

/// Something of a guest that a backup of it does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotSaved {
    /// What it is.
    pub what: String,
    /// It may hold data of the guest that is nowhere else; the report warns of it.
    pub data: bool,
    /// What the operator can do.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "typed_hint")]
    pub hint: Option<String>,
}

/// A domain, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name and identity.
    pub id: DomainRef,
    /// What it is doing.
    pub state: DomainState,
    /// It stands still because its guest has suspended itself to memory.
    pub suspended: bool,
    /// Whether libvirt keeps a definition of it.
    pub persistent: bool,
    /// Its XML.
    pub xml: DomainXml,
    /// Its disks, in the order of the XML.
    pub disks: Vec<Disk>,
    /// UEFI variables, if it has any.
    pub nvram: Option<Nvram>,
    /// Kernel and initrd of a direct-boot guest, and firmware that the guest writes.
    pub boot: Vec<BootFile>,
    /// Where the state of its emulated TPM lies, if it has one: a folder, or a file where the definition names one.
    pub tpm: Option<PathBuf>,
    /// It has a channel for the guest agent.
    pub agent_channel: bool,
    /// What of the guest lies outside all of these.
    pub outside: Vec<NotSaved>,
}
