//! Owns: one disk of a domain as its XML describes it. Must not: open, read or probe anything.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Failure;

/// The format a disk's image has, as the domain XML says; never guessed from a name or from contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The bytes of the guest, as they are.
    Raw,
    /// QEMU's qcow2.
    Qcow2,
    /// Any other driver of QEMU, by its name.
    #[serde(untagged)]
    Other(String),
}

impl Format {
    /// The name of QEMU's block driver.
    pub fn driver(&self) -> &str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Other(name) => name,
        }
    }

    /// From the name of QEMU's block driver.
    pub fn from_driver(name: &str) -> Format {
        match name {
            "raw" => Format::Raw,
            "qcow2" => Format::Qcow2,
            other => Format::Other(other.to_owned()),
        }
    }
}

/// Where a disk's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "at")]
pub enum Source {
    /// A regular file.
    File(PathBuf),
    /// A block device of the host.
    Block(PathBuf),
    /// On the network (RBD, iSCSI, NBD, …): the protocol and name, for messages.
    Network(String),
    /// A source this program does not know, by its libvirt type.
    #[serde(rename = "none")]
    Unsupported(String),
    /// A drive without a medium.
    Empty,
}

impl Source {
    /// The path on this host, for files and block devices.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::File(path) | Source::Block(path) => Some(path),
            Source::Network(_) | Source::Unsupported(_) | Source::Empty => None,
        }
    }
}

/// One image of a backing chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Where it lies.
    pub source: Source,
    /// Its format.
    pub format: Format,
}

/// What kind of device the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A hard disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
    /// A floppy drive.
    Floppy,
    /// A SCSI LUN passed through.
    Lun,
}

/// One disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The guest's name for it (`vda`): unique in a domain, and the key of a disk everywhere in this program.
    pub target: String,
    /// The kind of device.
    pub device: Device,
    /// The active image.
    pub image: Image,
    /// The images below the active one, nearest first, as far as the XML names them.
    pub backing: Vec<Image>,
    /// The definition says where the chain ends: below the last image there is none, whatever its header says.
    pub chain_ends: bool,
    /// The image that the persistent definition names, where it differs from the active one (a `<transient/>` disk).
    pub persistent: Option<Image>,
    /// The guest may not write.
    pub readonly: bool,
    /// Several guests may write at once.
    pub shareable: bool,
    /// Changes are dropped when the guest stops.
    pub transient: bool,
    /// The image is encrypted by QEMU (LUKS).
    pub encrypted: bool,
    /// The part of the definition that makes the disk something else than its image file, so that only the domain's QEMU
    /// can read it.
    pub only_qemu: Option<String>,
    /// Why the path of the image is not known, where it could not be looked up.
    pub unknown: Option<Failure>,
}
