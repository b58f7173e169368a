//! Owns: what can go wrong with an archive, in words. Must not: hold the path of an archive that is being written (its
//! writer knows only the open file).

use std::io;
use std::path::PathBuf;

use crate::sys::patience::{Stalled, is_out_of_reach};

/// Why an archive could not be written, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be read.
    #[error("cannot read the archive at byte {offset}")]
    Read {
        /// In the file.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The file could not be written or synced; the caller knows its path.
    #[error("cannot write the archive")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// Compression failed, or its threads could not be started.
    #[error("cannot compress")]
    Compress {
        /// Why.
        source: io::Error,
    },
    /// The threads that decode could not be started.
    #[error("cannot start decoder threads")]
    Threads {
        /// Why.
        source: rayon::ThreadPoolBuildError,
    },
    /// Not a file of this program.
    #[error("{} is not a kvmbackup archive", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The index at the end is damaged or cut off.
    #[error("the seek table at the end of the archive is damaged: {what}")]
    Table {
        /// What is wrong with it.
        what: &'static str,
    },
    /// One compressed piece is damaged.
    #[error("the frame at byte {offset} is damaged: {what}")]
    Frame {
        /// Of the frame, in the file.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The tar stream is damaged.
    #[error("the tar header at byte {offset} of the tar stream is damaged: {what}")]
    Header {
        /// In the uncompressed tar stream.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A member cannot be had because of what `source` says.
    #[error("member {member} is damaged")]
    Member {
        /// Its name.
        member: String,
        /// The damage.
        source: Box<Error>,
    },
    /// A member that must be there is not.
    #[error("member {member} is missing")]
    Missing {
        /// Its name.
        member: String,
    },
    /// A member is there that nothing speaks of.
    #[error("member {member} is not in SHA256SUMS")]
    Unlisted {
        /// Its name.
        member: String,
    },
    /// A member's bytes are not those that were written.
    #[error("the SHA-256 of member {member} does not match SHA256SUMS")]
    Digest {
        /// Its name.
        member: String,
    },
    /// `SHA256SUMS` cannot be read.
    #[error("line {line} of SHA256SUMS is damaged")]
    Sums {
        /// From 1.
        line: usize,
    },
    /// `manifest.json` cannot be read.
    #[error("manifest.json is damaged")]
    Manifest {
        /// Why.
        source: serde_json::Error,
    },
    /// `manifest.json` cannot be made.
    #[error("cannot create manifest.json")]
    MakeManifest {
        /// Why.
        source: serde_json::Error,
    },
    /// A newer program wrote the archive.
    #[error("the archive has format {format}; this program reads formats up to {}", crate::archive::manifest::FORMAT)]
    NewerFormat {
        /// Its format.
        format: u32,
    },
    /// A member is larger than its reader allows.
    #[error("member {member} has {length} bytes; at most {limit} are allowed here")]
    TooLarge {
        /// Its name.
        member: String,
        /// Its bytes.
        length: u64,
        /// The bytes allowed.
        limit: u64,
    },
    /// A name that an archive may not hold: absolute, with `..`, twice.
    #[error("member name {name:?} is refused: {what}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        what: &'static str,
    },
    /// The writer was given more or fewer bytes than it was told, or members out of order.
    #[error("member {member}: {what}")]
    Misuse {
        /// The member.
        member: String,
        /// What was done wrong.
        what: &'static str,
    },
    /// There are more pieces than an archive may have.
    #[error("the archive would hold more than 64 TiB")]
    TooManyPieces,
    /// An archive of the legacy script cannot be read.
    #[error("cannot read the archive {}", path.display())]
    Script {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// What the operator can do, where there is something.
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

    /// The error that a reader or writer which speaks [`io::Error`] has inside.
    pub fn inside(error: io::Error) -> Error {
        error.downcast().unwrap_or_else(|source| Error::Read { offset: 0, source })
    }

    /// As the error of a member.
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
    /// Whether it is the archive's bytes that are wrong, a sector that cannot be read included.
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
    /// For readers that speak [`io::Error`]; the error stays inside.
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
    fn who_can_do_something_is_told_what() {
        let failed = |kind: io::ErrorKind| io::Error::from(kind);
        // Nobody ever sends.
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
