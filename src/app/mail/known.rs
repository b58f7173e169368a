//! Owns: `mail.json` of the state folder: how the last run that could read its configuration was mailed, so that one that cannot is
//! mailed all the same. Must not: hold a password; the configuration says where those are.

use std::io;
use std::path::{Path, PathBuf};

use super::Error;
use crate::config::{self, Mail, Settings};
use crate::mail;
use crate::sys::{durable, trust};

/// Keeps how this run is mailed; nothing is kept where none is wanted.
///
/// # Errors
/// The file cannot be written.
pub fn remember(settings: &Settings) -> Result<(), Error> {
    let path = file(&settings.state_dir);
    let failed = |source| mail::Error::Known { path: path.clone(), source };
    let Some(mail) = &settings.mail else { return Ok(durable::remove(&path).map_err(failed)?) };
    let json = serde_json::to_vec(mail).map_err(|error| failed(error.into()))?;
    if std::fs::read(&path).is_ok_and(|before| before == json) {
        return Ok(());
    }
    Ok(durable::write(&path, &json).map_err(failed)?)
}

/// How runs were mailed before the configuration went wrong. What cannot be read is as if it were not there.
pub fn recall(errors: &config::Errors) -> Option<Mail> {
    let path = file(super::state_dir(errors));
    let trusted = trust::file(&path).map_err(io::Error::other);
    let read = trusted.and_then(|()| std::fs::read(&path)).and_then(|json| Ok(serde_json::from_slice(&json)?));
    let log = |error: io::Error| tracing::info!(path = %path.display(), %error, "no way of mails is known");
    read.map_err(log).ok()
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("mail.json")
}
