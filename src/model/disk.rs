//! A disk of a domain as its XML describes it. Must not open, read or probe anything.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Failure;

/// The image format that the domain XML declares; never guessed from a name or from contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The guest's bytes without a container.
    Raw,
    /// QEMU's qcow2.
    Qcow2,
    /// Any other block driver of QEMU, by name.
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

/// Where a disk is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "at")]
pub enum Source {
    /// A regular file.
    File(PathBuf),
    /// A block device of the host.
    Block(PathBuf),
    /// On the network (RBD, iSCSI, NBD, …): the protocol and name, for messages.
    Network(String),
    /// A source type that this program does not support, by its libvirt name.
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
    /// Where it is stored.
    pub source: Source,
    /// The declared format.
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
    /// Target name (`vda`), unique in a domain; the key of a disk everywhere in this program.
    pub target: String,
    /// The device that the guest sees.
    pub device: Device,
    /// The active image.
    pub image: Image,
    /// The images below the active one, nearest first, as far as the XML names them.
    pub backing: Vec<Image>,
    /// The definition ends the chain explicitly: the last image has no backing file, regardless of its header.
    pub chain_ends: bool,
    /// The image of the persistent definition, if it differs from the active one (a `<transient/>` disk).
    pub persistent: Option<Image>,
    /// The guest cannot write.
    pub readonly: bool,
    /// Several guests may write at once.
    pub shareable: bool,
    /// Changes are discarded when the guest stops.
    pub transient: bool,
    /// The image is encrypted by QEMU (LUKS).
    pub encrypted: bool,
    /// The part of the definition that makes the disk differ from its image file, so that only the domain's QEMU can
    /// read it.
    pub only_qemu: Option<String>,
    /// Why the path of the image could not be determined.
    pub unknown: Option<Failure>,
}
