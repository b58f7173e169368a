//! The errors of archives. Must not contain the path of an archive that is being written, because its writer knows
//! only the open file.

use std::io;
use std::path::PathBuf;

use crate::sys::patience::{Stalled, is_out_of_reach};

/// An error while reading, writing or checking an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Path of the archive.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The file could not be read.
    #[error("cannot read the archive at byte {offset}")]
    Read {
        /// Offset in the file.
        offset: u64,
        /// Cause.
        source: io::Error,
    },
    /// The file could not be written or synced; the caller adds its path.
    #[error("cannot write the archive")]
    Write {
        /// Cause.
        source: io::Error,
    },
    /// Compression failed, or its threads could not be started.
    #[error("cannot compress")]
    Compress {
        /// Cause.
        source: io::Error,
    },
    /// The decoder threads could not be started.
    #[error("cannot start decoder threads")]
    Threads {
        /// Cause.
        source: rayon::ThreadPoolBuildError,
    },
    /// Not an archive of kvmbackup.
    #[error("{} is not a kvmbackup archive", path.display())]
    Foreign {
        /// Path of the file.
        path: PathBuf,
    },
    /// The seek table at the end is damaged or truncated.
    #[error("the seek table at the end of the archive is damaged: {what}")]
    Table {
        /// Kind of damage.
        what: &'static str,
    },
    /// One compressed piece is damaged.
    #[error("the frame at byte {offset} is damaged: {what}")]
    Frame {
        /// Offset of the frame in the file.
        offset: u64,
        /// Kind of damage.
        what: &'static str,
    },
    /// The tar stream is damaged.
    #[error("the tar header at byte {offset} of the tar stream is damaged: {what}")]
    Header {
        /// Offset in the uncompressed tar stream.
        offset: u64,
        /// Kind of damage.
        what: &'static str,
    },
    /// A member is damaged.
    #[error("member {member} is damaged")]
    Member {
        /// Name of the member.
        member: String,
        /// The damage.
        source: Box<Error>,
    },
    /// A required member does not exist.
    #[error("member {member} is missing")]
    Missing {
        /// Name of the member.
        member: String,
    },
    /// A member has no checksum.
    #[error("member {member} is not in SHA256SUMS")]
    Unlisted {
        /// Name of the member.
        member: String,
    },
    /// A member does not match its checksum.
    #[error("the SHA-256 of member {member} does not match SHA256SUMS")]
    Digest {
        /// Name of the member.
        member: String,
    },
    /// `SHA256SUMS` cannot be read.
    #[error("line {line} of SHA256SUMS is damaged")]
    Sums {
        /// Line number, from 1.
        line: usize,
    },
    /// `manifest.json` cannot be read.
    #[error("manifest.json is damaged")]
    Manifest {
        /// Cause.
        source: serde_json::Error,
    },
    /// `manifest.json` cannot be created.
    #[error("cannot create manifest.json")]
    MakeManifest {
        /// Cause.
        source: serde_json::Error,
    },
    /// A newer program wrote the archive.
    #[error("the archive has format {format}; this program reads formats up to {}", crate::archive::manifest::FORMAT)]
    NewerFormat {
        /// Format number.
        format: u32,
    },
    /// A member is larger than the reader allows.
    #[error("member {member} has {length} bytes; at most {limit} are allowed here")]
    TooLarge {
        /// Name of the member.
        member: String,
        /// Length in bytes.
        length: u64,
        /// Limit in bytes.
        limit: u64,
    },
    /// A forbidden member name: absolute, with `..`, or a duplicate.
    #[error("member name {name:?} is refused: {what}")]
    Name {
        /// The name.
        name: String,
        /// Cause.
        what: &'static str,
    },
    /// The caller wrote more or fewer bytes than announced, or members out of order.
    #[error("member {member}: {what}")]
    Misuse {
        /// Name of the member.
        member: String,
        /// What the caller did wrong.
        what: &'static str,
    },
    /// The archive would exceed the limit of pieces.
    #[error("the archive would exceed 64 TiB")]
    TooManyPieces,
    /// An archive of the legacy script cannot be read.
    #[error("cannot read the archive {}", path.display())]
    Script {
        /// Path of the archive.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

impl Error {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            error if Stalled::caused(error) => Stalled::HINT,
            Error::NewerFormat { .. } => "Update kvmbackup, or restore by hand with tar (docs/format.md).",
            Error::Table { .. } => {
                "The file may be truncated. Compare its size with another copy; zstd or gzip and tar can read what is left of it."
            }
            Error::Frame { .. } | Error::Header { .. } | Error::Digest { .. } | Error::Read { .. } => {
                "Use another copy or an older restore point, and test the target's disk and memory."
            }
            Error::Member { source, .. } => return source.hint(),
            Error::Write { source } if source.kind() == io::ErrorKind::StorageFull => {
                "Free space on the target, or keep fewer restore points."
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Unwraps the archive error inside an [`io::Error`].
    pub fn inside(error: io::Error) -> Error {
        error.downcast().unwrap_or_else(|source| Error::Read { offset: 0, source })
    }

    /// Wraps the error in [`Error::Member`], unless it names a member.
    pub(super) fn of(self, member: &str) -> Error {
        match self {
            named @ (Error::Member { .. } | Error::Digest { .. } | Error::Missing { .. } | Error::TooLarge { .. }) => {
                named
            }
            source => Error::Member { member: member.to_owned(), source: Box::new(source) },
        }
    }
}

impl Error {
    /// Whether the bytes of the archive are wrong or unreadable, such as a bad sector.
    pub fn is_damage(&self) -> bool {
        use Error as E;
        match self {
            error if is_out_of_reach(error) => false,
            E::Open { .. } | E::Write { .. } | E::Compress { .. } | E::Threads { .. } => false,
            E::Misuse { .. } | E::MakeManifest { .. } | E::NewerFormat { .. } | E::TooManyPieces => false,
            E::Member { source, .. } => source.is_damage(),
            E::Read { .. } | E::Script { .. } | E::Foreign { .. } | E::Table { .. } | E::Frame { .. } => true,
            E::Header { .. } | E::Missing { .. } | E::Unlisted { .. } | E::Digest { .. } | E::Sums { .. } => true,
            E::Manifest { .. } | E::TooLarge { .. } | E::Name { .. } => true,
        }
    }
}

impl From<Error> for io::Error {
    /// For readers that return [`io::Error`]; [`Error::inside`] unwraps it.
    fn from(error: Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::sys::patience::Patience;

    #[test]
    fn errors_that_the_operator_can_fix_have_a_hint() {
        let failed = |kind: io::ErrorKind| io::Error::from(kind);
        // Nothing is ever sent.
        let (_sender, receiver) = mpsc::channel::<()>();
        let stalled = || Patience::new(Duration::ZERO).receive(&receiver).unwrap_err();
        let member = || "disks/vda.qcow2".to_owned();
        let of = |source| Error::Member { member: member(), source: Box::new(source) };
        let copy = Some("another copy");
        for (error, says) in [
            (Error::NewerFormat { format: 2 }, Some("Update kvmbackup")),
            (Error::Table { what: "" }, Some("truncated")),
            (Error::Frame { offset: 0, what: "" }, copy),
            (Error::Header { offset: 0, what: "" }, copy),
            (Error::Digest { member: member() }, copy),
            (Error::Read { offset: 0, source: failed(io::ErrorKind::Other) }, copy),
            (of(Error::Table { what: "" }), Some("truncated")),
            (of(Error::TooManyPieces), None),
            (Error::Write { source: failed(io::ErrorKind::StorageFull) }, Some("Free space")),
            (Error::Write { source: failed(io::ErrorKind::Other) }, None),
            (Error::Write { source: stalled() }, Some(Stalled::HINT)),
            (Error::Missing { member: member() }, None),
        ] {
            let hint = error.hint();
            assert!(hint.is_some() == says.is_some(), "{error}: {hint:?}");
            assert!(says.is_none_or(|says| hint.is_some_and(|hint| hint.contains(says))), "{error}");
        }
    }
}
