//! Owns: the XML of a domain: reading it into the vocabulary, and rewriting it for a restore. Pure.
//! Must not: talk to libvirt, touch files, or find anything in the text by string search.

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
    /// Longer than libvirt itself can send.
    #[error("domain XML has {bytes} bytes; libvirt sends at most {limit}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// Nested deeper than libvirt's own parser accepts.
    #[error("domain XML is nested deeper than {limit} elements")]
    TooDeep {
        /// The deepest allowed.
        limit: usize,
    },
    /// Not well-formed XML, or with a document type.
    #[error("cannot parse the domain XML")]
    Parse(#[source] roxmltree::Error),
    /// Well-formed, and not the definition of a domain.
    #[error("domain XML starts with <{found}>, not <domain>")]
    NotADomain {
        /// The outermost element.
        found: String,
    },
    /// Something that every domain has is not there.
    #[error("domain XML has no {what}")]
    Missing {
        /// What is missing.
        what: String,
    },
    /// A value that libvirt does not write.
    #[error("domain XML has {what} '{value}'")]
    Unknown {
        /// Which value.
        what: &'static str,
        /// What it says.
        value: String,
    },
    /// Two disks claim one target, which is the key of a disk.
    #[error("domain XML has two disks with target {target}")]
    SameTarget {
        /// The target.
        target: String,
    },
    /// A change names a disk that the definition does not have.
    #[error("domain XML has no disk {target}")]
    NoSuchDisk {
        /// The target.
        target: String,
    },
    /// Under a new name, a disk would still be the original guest's.
    #[error("disk {target} would be written by both the original guest and its copy")]
    SharedDisk {
        /// The target.
        target: String,
    },
    /// A restored disk was given a place that is neither a file nor a block device.
    #[error("disk {target} is restored neither to a file nor to a block device")]
    Place {
        /// The target.
        target: String,
    },
    /// A path that XML cannot hold.
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
