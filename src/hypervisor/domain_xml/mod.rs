//! Reads domain XML into the types of `model`, and rewrites it for a restore. Pure.
//! Must not call libvirt, access files, or search the text of the XML.

mod edits;
mod identity;
mod left_out;
mod needs;
mod outside;
mod reach;
mod read;
mod repoint;
mod rewrite;
mod source;
mod tree;

#[cfg(test)]
mod tests;

pub use edits::escape;
pub use left_out::left_out;
pub use needs::{Cpu, Needs, needs};
pub use reach::Reach;
pub use read::{Described, Job, TPM_STATE, Volume, is_external_snapshot, read};
pub use repoint::{disk_text, has_images_of, repoint};
pub use rewrite::{Changes, Rewritten, TpmState, reaches, renamed, rewrite};

/// Why a domain's XML cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Longer than anything libvirt can send.
    #[error("domain XML has {bytes} bytes; libvirt sends at most {limit}")]
    TooLong {
        /// Length in bytes.
        bytes: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// Nested deeper than libvirt's parser accepts.
    #[error("domain XML is nested deeper than {limit} elements")]
    TooDeep {
        /// Limit in elements.
        limit: usize,
    },
    /// Not well-formed, or with a document type.
    #[error("cannot parse the domain XML")]
    Parse(#[source] roxmltree::Error),
    /// Well-formed XML of something else.
    #[error("domain XML starts with <{found}>, not <domain>")]
    NotADomain {
        /// Name of the root element.
        found: String,
    },
    /// A mandatory element is missing.
    #[error("domain XML has no {what}")]
    Missing {
        /// The element, for display.
        what: String,
    },
    /// A value that libvirt does not write.
    #[error("domain XML has {what} '{value}'")]
    Unknown {
        /// The element or attribute, for display.
        what: &'static str,
        /// The unexpected value.
        value: String,
    },
    /// Two disks have one target, which must be unique.
    #[error("domain XML has two disks with target {target}")]
    SameTarget {
        /// Target of the disks.
        target: String,
    },
    /// A change refers to a disk that the definition does not have.
    #[error("domain XML has no disk {target}")]
    NoSuchDisk {
        /// Target of the disk.
        target: String,
    },
    /// The copy of a domain would share a writable disk with the original.
    #[error("disk {target} would be written by both the original guest and its copy")]
    SharedDisk {
        /// Target of the disk.
        target: String,
    },
    /// The destination of a disk is neither a file nor a block device.
    #[error("disk {target} is restored neither to a file nor to a block device")]
    Place {
        /// Target of the disk.
        target: String,
    },
    /// A path that XML cannot represent.
    #[error("path {0:?} cannot be written in XML")]
    Path(std::path::PathBuf),
}

impl Error {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::SharedDisk { target } => {
                Some(format!("Restore {target} too, remove it from the new definition, or keep the name."))
            }
            Error::Path(_) => Some("Use a path of printable UTF-8 characters.".to_owned()),
            Error::NoSuchDisk { .. } => {
                Some("To see the restore point's disks: kvmbackup list --json DOMAIN".to_owned())
            }
            _ => None,
        }
    }
}
