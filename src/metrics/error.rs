//! Owns: why metrics could not be told. Must not: print.

use std::io;
use std::path::{Path, PathBuf};

use crate::ledger;

/// Why metrics could not be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They cannot be put into the text format.
    #[error("cannot write metrics as text")]
    Encode(#[from] prometheus::Error),
    /// The ledger, or the survey, cannot be read.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The textfile cannot be replaced. Whatever had its name before is untouched.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        let (path, source) = match self {
            Error::Encode(_) => return None,
            Error::Ledger(error) => return error.hint(),
            Error::File { path, source, .. } => (path, source),
        };
        let folder = path.parent().unwrap_or(Path::new("/")).display();
        match source.kind() {
            io::ErrorKind::NotFound => Some(format!(
                "make the folder {folder}, or change `metrics.textfile`; node_exporter of Debian 12 reads \
                 /var/lib/prometheus/node-exporter"
            )),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Some(format!("whoever runs kvmbackup must be able to write in {folder}"))
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(format!("make room in {folder}")),
            _ => None,
        }
    }
}

/// For `map_err`: what was tried with a file.
pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}
