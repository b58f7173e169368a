//! Reads a password from its configured place. It must not print or keep it.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::config::Secret;
use crate::sys::opened;

/// Maximum size of a password file, in bytes.
const MAX: u64 = 64 << 10;

/// The first line, without its line ending. Files with Windows line endings contain a carriage return too.
pub(super) fn read(secret: &Secret) -> Result<String, Error> {
    let file = |path: &Path| (path.display().to_string(), opened::read_followed(path, MAX).and_then(opened::text));
    let (place, read) = match secret {
        Secret::File(path) => file(path),
        Secret::Env(name) => {
            let value = std::env::var(name).map_err(|_| io::Error::new(io::ErrorKind::NotFound, "not set"));
            (format!("the environment variable {name}"), value)
        }
        Secret::Credential(name) => match file_of(secret) {
            Some(path) => file(&path),
            None => {
                let error = io::Error::new(io::ErrorKind::NotFound, "systemd passed no credentials to this process");
                (format!("the credential {name}"), Err(error))
            }
        },
    };
    let line = read.map(|text| text.lines().next().unwrap_or_default().trim_end_matches('\r').to_owned());
    match line {
        Ok(line) if line.is_empty() => Err(io::Error::new(io::ErrorKind::InvalidData, "empty")),
        line => line,
    }
    .map_err(|source| Error::Secret { place, source })
}

/// The file of a secret, if it is a file.
pub(super) fn file_of(secret: &Secret) -> Option<PathBuf> {
    match secret {
        Secret::File(path) => Some(path.clone()),
        Secret::Credential(name) => Some(PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name)),
        Secret::Env(_) => None,
    }
}

/// Whether users other than the owner may read the file of a secret; false if there is no file.
pub fn is_open(secret: &Secret) -> bool {
    match secret {
        Secret::File(path) => std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0),
        Secret::Env(_) | Secret::Credential(_) => false,
    }
}
