//! Reads a password from its configured place. Must not print or keep it.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::opened;

/// Maximum size of a password file, in bytes.
const MAX: u64 = 64 << 10;

/// Where a secret is stored; no setting contains the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Secret {
    /// The first line of a file, by its absolute path.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A credential of the systemd unit: a file of this name in `$CREDENTIALS_DIRECTORY`, see systemd.exec(5).
    Credential(String),
}

/// A secret could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the password from {place}")]
pub struct SecretError {
    /// The file, variable or credential.
    pub place: String,
    /// Cause.
    pub source: io::Error,
}

impl Secret {
    /// The first line, without its line ending. Files with Windows line endings contain a carriage return too.
    pub fn read(&self) -> Result<String, SecretError> {
        let file = |path: &Path| (path.display().to_string(), opened::read_followed(path, MAX).and_then(opened::text));
        let (place, read) = match self {
            Secret::File(path) => file(path),
            Secret::Env(name) => {
                let value = std::env::var(name).map_err(|_| io::Error::new(io::ErrorKind::NotFound, "not set"));
                (format!("the environment variable {name}"), value)
            }
            Secret::Credential(name) => match self.path() {
                Some(path) => file(&path),
                None => {
                    let error =
                        io::Error::new(io::ErrorKind::NotFound, "systemd passed no credentials to this process");
                    (format!("the credential {name}"), Err(error))
                }
            },
        };
        let line = read.map(|text| text.lines().next().unwrap_or_default().trim_end_matches('\r').to_owned());
        match line {
            Ok(line) if line.is_empty() => Err(io::Error::new(io::ErrorKind::InvalidData, "empty")),
            line => line,
        }
        .map_err(|source| SecretError { place, source })
    }

    /// The file that contains it, if it is a file.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Secret::File(path) => Some(path.clone()),
            Secret::Credential(name) => Some(PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name)),
            Secret::Env(_) => None,
        }
    }

    /// Whether users other than the owner may read its file; false if the configuration names no file.
    pub fn is_exposed(&self) -> bool {
        match self {
            Secret::File(path) => std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0),
            Secret::Env(_) | Secret::Credential(_) => false,
        }
    }
}
