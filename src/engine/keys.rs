//! Lists and changes the keys of a repository, each of which is for one password. restic does it. Must not show a
//! password, or change the configuration.

use std::path::Path;

use chrono::{DateTime, Local, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use super::restic::Restic;
use super::restic::summary;
use super::target::open_repository;
use super::{Error, chain};
use crate::config::Settings;
use crate::sys::opened;
use crate::sys::secret::Secret;
use crate::sys::signals::Cancel;
use crate::sys::trust::{self, Refused};

/// The largest file with a password, in bytes.
const MAX_PASSWORD: u64 = 64 << 10;
/// Parts of the messages of restic about an ID that the operator must correct.
const WRONG_ID: [&str; 4] = ["no matching ID found", "multiple IDs with prefix", "prefix found", "no matching id"];
/// Part of the message of restic about the key that it uses.
const IN_USE: &str = "currently used to access repository";

/// A key of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryKey {
    /// Its ID, or the beginning of it.
    pub id: String,
    /// When it was created; `None` if restic does not report a valid time.
    pub created: Option<DateTime<Utc>>,
    /// The user who created it.
    pub user: String,
    /// The host where it was created.
    pub host: String,
    /// Whether the password of the configuration is for it.
    pub in_use: bool,
}

/// A change of the keys. A path names a file with the new password.
#[derive(Debug, Clone, Copy)]
pub enum KeyChange<'a> {
    /// Adds a key for another password.
    Add(&'a Path),
    /// Removes the key with this ID.
    Remove(&'a str),
    /// Replaces the key in use by one for another password.
    Passwd(&'a Path),
}

/// The keys, oldest first.
///
/// # Errors
/// The configuration has no repository, it cannot be opened, or restic failed.
pub fn list(settings: &Settings, cancel: &Cancel) -> Result<Vec<RepositoryKey>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Listed {
        current: bool,
        id: String,
        user_name: String,
        host_name: String,
        created: String,
    }
    let (repository, store) = open_repository(settings)?;
    let restic = Restic::new(repository, &store, cancel)?;
    let (done, printed) = restic.ask("key", &["list".to_owned(), "--json".to_owned()])?;
    let failed = |message| Error::Restic { command: "key", message };
    if !done.is_good {
        return Err(failed(summary(&done.messages)));
    }
    let listed: Vec<Listed> = serde_json::from_str(&printed).map_err(Error::Json)?;
    let keys = listed.into_iter().map(|key| RepositoryKey {
        created: time(&key.created),
        id: key.id,
        user: key.user_name,
        host: key.host_name,
        in_use: key.current,
    });
    let mut keys: Vec<_> = keys.collect();
    keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Ok(keys)
}

/// Changes the keys.
///
/// # Errors
/// As for [`list`]; the file with the new password cannot be used, the ID is wrong, or its key is in use.
pub fn change(settings: &Settings, change: KeyChange<'_>, cancel: &Cancel) -> Result<(), Error> {
    let with_password = |word: &str, file: &Path| {
        expect_usable(file)?;
        Ok::<_, Error>(vec![word.to_owned(), format!("--new-password-file={}", file.display())])
    };
    let words = match change {
        KeyChange::Add(file) => with_password("add", file)?,
        KeyChange::Passwd(file) => with_password("passwd", file)?,
        KeyChange::Remove(id) => vec!["remove".to_owned(), id.to_owned()],
    };
    let (repository, store) = open_repository(settings)?;
    let done = Restic::new(repository, &store, cancel)?.run("key", &words)?;
    match done.is_good {
        true => Ok(()),
        false => Err(refusal(summary(&done.messages))),
    }
}

/// Another user must not be able to choose the password, and restic must read the same one as this program. restic uses
/// the whole file without the blanks around it; this program uses the first line.
fn expect_usable(file: &Path) -> Result<(), Error> {
    let what = "the file with the new password";
    // A file that does not exist is reported when it is read.
    if let Err(source @ Refused::Untrusted { .. }) = trust::input(file) {
        return Err(Error::Untrusted { what, source });
    }
    let secret = Secret::File(file.to_owned());
    let refused = |why: String| Error::Rejected {
        message: format!("cannot use the password in {}: {why}", file.display()),
        hint: Some("Write it on one line, with no blanks before or after it.".to_owned()),
    };
    let password = secret.read().map_err(|error| refused(chain(&error)))?;
    let all = opened::read_followed(file, MAX_PASSWORD).and_then(opened::text);
    let all = all.map_err(|error| refused(error.to_string()))?;
    if all.trim() != password || password.starts_with('\u{feff}') {
        return Err(refused("restic would read another one from this file".to_owned()));
    }
    if secret.is_exposed() {
        tracing::warn!("other users can read the new password: {}", file.display());
    }
    Ok(())
}

fn refusal(message: String) -> Error {
    let is_any = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    let hint = match () {
        () if is_any(&[IN_USE]) => {
            "Set the password of another key in the configuration first, or replace this one: kvmbackup repository key \
             passwd --new-password-file FILE"
        }
        () if is_any(&WRONG_ID) => "To list the keys: kvmbackup repository key list",
        () => return Error::Restic { command: "key", message },
    };
    Error::Rejected { message: format!("restic key failed: {message}"), hint: Some(hint.to_owned()) }
}

/// A time as restic prints it, in the time zone of the host.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()?;
    Some(local.and_local_timezone(Local).latest()?.to_utc())
}
