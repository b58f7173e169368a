//! Stores in `mail.json` of the state directory how runs were last mailed, so that a run that cannot read its
//! configuration is mailed too. Must not store a password; the configuration names its place.

use std::io;
use std::path::{Path, PathBuf};

use super::Error;
use crate::config::{self, Mail, Settings};
use crate::mail;
use crate::model::version;
use crate::sys::{durable, opened, trust};

const VERSION: u32 = 1;
/// Maximum size of the file, in bytes.
const MAX: u64 = 1 << 20;

/// Records how this run is mailed, or removes the record if it is not.
///
/// # Errors
/// The file cannot be written.
pub fn remember(settings: &Settings) -> Result<(), Error> {
    let path = file(&settings.state_dir);
    let failed = |source| mail::Error::Known { path: path.clone(), source };
    let Some(mail) = &settings.mail else { return Ok(durable::remove(&path).map_err(failed)?) };
    let json = version::text(mail, VERSION).map_err(|error| failed(error.into()))?;
    if opened::read_private(&path, MAX).is_ok_and(|before| before == json) {
        return Ok(());
    }
    Ok(durable::write(&path, &json).map_err(failed)?)
}

/// How runs were mailed before the configuration became invalid. A record that cannot be read, or that another user
/// could have written, is ignored because it names a program to run.
pub fn recall(errors: &config::Errors) -> Option<Mail> {
    let path = file(super::state_dir(errors));
    let trusted = trust::file(&path).map_err(io::Error::other);
    let read = trusted.and_then(|()| opened::read_private(&path, MAX));
    let read = read.and_then(|json| version::parse(&json, VERSION).map_err(io::Error::other));
    let log = |error: io::Error| tracing::info!(path = %path.display(), %error, "no earlier mail settings are known");
    read.map_err(log).ok()
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("mail.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_released_version_is_readable() {
        let read = |bytes: &[u8]| version::parse::<Mail>(bytes, VERSION);
        version::history::assert_read("mail", read, |mail| version::text(mail, VERSION).unwrap());
    }
}
