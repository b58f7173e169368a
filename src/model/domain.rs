//! A domain as it is at one moment. Must not query libvirt.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Disk;
use super::outcome::typed_hint;

/// Identifies a domain. The UUID is its identity; the name is for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DomainRef {
    /// Its name in libvirt; may contain spaces and any script.
    pub name: String,
    /// Its UUID in libvirt.
    pub uuid: Uuid,
}

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainState {
    /// The guest is running.
    Running,
    /// The guest is in memory but not running: paused, suspended, crashed, or shutting down.
    Paused,
    /// Only the definition exists.
    Off,
}

impl DomainState {
    /// Whether a QEMU process has the disks open.
    pub fn is_active(self) -> bool {
        self != DomainState::Off
    }
}

/// The domain XML in the three forms that a restore may need, including secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct DomainXml {
    /// The current state; for a domain that is off, the same as `inactive`.
    pub live: String,
    /// The state at the next start; for a transient domain, the same as `live`.
    pub inactive: String,
    /// The form that another host's libvirt accepts.
    pub migratable: String,
}

impl std::fmt::Debug for DomainXml {
    /// Hides the contents, because they may contain passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DomainXml(..)")
    }
}

/// The UEFI variables of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvram {
    /// The file or block device that contains them.
    pub path: PathBuf,
}

/// A file that a guest boots from: of a direct boot, or firmware that the guest writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFile {
    /// The element of the domain XML (`kernel`, `initrd`, `dtb`, `loader`).
    pub element: String,
    /// Its path on this host.
    pub path: PathBuf,
}

/// A part of a guest that its backup does not contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotSaved {
    /// Its description.
    pub what: String,
    /// It may contain guest data that exists nowhere else, so the report warns about it.
    pub data: bool,
    /// What the operator can do.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "typed_hint")]
    pub hint: Option<String>,
}

/// A domain and everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name and UUID.
    pub id: DomainRef,
    /// Its state.
    pub state: DomainState,
    /// It is paused because its guest suspended itself to memory.
    pub suspended: bool,
    /// Whether it has a definition that outlives the guest.
    pub persistent: bool,
    /// Its XML, including secrets.
    pub xml: DomainXml,
    /// Its disks, in the order of the XML.
    pub disks: Vec<Disk>,
    /// UEFI variables, if it has any.
    pub nvram: Option<Nvram>,
    /// Kernel and initrd of a direct-boot guest, and firmware that the guest writes.
    pub boot: Vec<BootFile>,
    /// Where the state of its emulated TPM is stored, if it has one: a directory, or a file if the definition names
    /// one.
    pub tpm: Option<PathBuf>,
    /// It has a channel for the guest agent.
    pub agent_channel: bool,
    /// Parts of the guest that are outside all of these.
    pub outside: Vec<NotSaved>,
}
