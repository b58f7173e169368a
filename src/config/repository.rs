//! The value of the key `repository`, and its limits. Must not open a repository, or read a secret.

use std::path::PathBuf;
use std::time::Duration;

use super::error::Problems;
use super::key;
use super::keys::REPOSITORY;
use super::mail::PASSWORDS;
use super::place::Place;
use super::value;
use crate::sys::secret::Secret;

/// Default directory of the cache.
const CACHE_DIR: &str = "/var/cache/kvmbackup";

/// The repository with the restore points of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Absolute path of its directory.
    pub path: PathBuf,
    /// Where its password is stored.
    pub password: Secret,
    /// Absolute path of the directory for the cache, which can be removed at any time.
    pub cache_dir: PathBuf,
    /// How long a maintenance may take, including its wait for other processes.
    pub maintain_timeout: Duration,
    /// Percentage of the data that a maintenance reads and checks; 0 checks only the structure.
    pub check_data: u32,
    /// Percentage of the stored data that may be unused after a maintenance.
    pub max_unused: u32,
}

/// `None` if it is incomplete or invalid.
pub(super) fn read(place: &Place<'_>, problems: &mut Problems) -> Option<RepositorySettings> {
    let password = Secret::Env(String::new());
    let mut repository = RepositorySettings {
        path: PathBuf::new(),
        password,
        cache_dir: CACHE_DIR.into(),
        maintain_timeout: Duration::from_secs(12 * 3600),
        check_data: 5,
        max_unused: 5,
    };
    let before = problems.count();
    let entries = key::inside(place, &mut repository, REPOSITORY, problems);
    key::require(place, &entries, "url", Some(URL), problems);
    key::exclude(&entries, &PASSWORDS, problems);
    if !entries.iter().any(|entry| PASSWORDS.contains(&entry.name)) {
        problems.add(place.wrong("requires a password", format!("one of {}", PASSWORDS.join(", "))));
    }
    (problems.count() == before).then_some(repository)
}

const URL: &str = "the absolute path of a directory";

/// The directory of a repository. A prefix such as `s3:` is an error, because it does not mean a directory.
pub(super) fn path(place: &Place<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let text = value::text(place, problems)?;
    match text.split_once(':') {
        Some((scheme, _)) if !text.starts_with('/') => {
            problems.add(place.wrong(format!("cannot be at `{}:`", scheme.escape_debug()), URL));
            None
        }
        _ => value::absolute(place, problems),
    }
}
