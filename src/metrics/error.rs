//! Errors of building and writing metrics. Must not print.

use std::io;
use std::path::{Path, PathBuf};

use crate::ledger;

/// Why metrics could not be built or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They cannot be encoded as text.
    #[error("cannot write metrics as text")]
    Encode(#[from] prometheus::Error),
    /// The ledger, or the survey, cannot be read.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The textfile cannot be replaced. An existing file is unchanged.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
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
                "Create the directory {folder}, or change `metrics.textfile`. node_exporter of Debian 12 reads \
                 /var/lib/prometheus/node-exporter."
            )),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Some(format!("Make {folder} writable for the user of kvmbackup."))
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(format!("Free space in {folder}.")),
            _ => None,
        }
    }
}

/// For `map_err`: an error of this action on this file.
pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}
