//! The value of the key `repository`, and its limits. Must not open a repository, or read a secret.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::copies::{self, CopySettings};
use super::error::Problems;
use super::key;
use super::keys::REPOSITORY;
use super::mail::PASSWORDS;
use super::place::Place;
use super::value;
use crate::model::BucketUrl;
use crate::sys::secret::Secret;

/// Default directory of the cache.
const CACHE_DIR: &str = "/var/cache/kvmbackup";

/// Default region; servers other than Amazon's usually accept it.
const REGION: &str = "us-east-1";

/// Limits of `blob_size`, in bytes.
const BLOB_SIZES: RangeInclusive<u64> = 64 << 10..=8 << 20;

const SECRET_KEYS: [&str; 3] = ["secret_access_key_file", "secret_access_key_env", "secret_access_key_credential"];

/// The keys that have a meaning only for a bucket.
const FOR_BUCKETS: [&str; 6] = ["access_key_id", SECRET_KEYS[0], SECRET_KEYS[1], SECRET_KEYS[2], "region", "ca_file"];

/// The repository with the restore points of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Absolute path of its directory. If it is in a bucket, its URL, which is only for messages.
    pub path: PathBuf,
    /// The bucket, unless the repository is in a directory.
    pub bucket: Option<BucketUrl>,
    /// Name of the access key of the bucket; `None` if the key is in the environment.
    pub access_key_id: Option<String>,
    /// Where its secret is stored; set if the name is.
    pub secret_access_key: Option<Secret>,
    /// Region of the bucket.
    pub region: String,
    /// Absolute path of a file with the certificates of a private authority.
    pub ca_file: Option<PathBuf>,
    /// Where its password is stored.
    pub password: Secret,
    /// Absolute path of the directory for the cache, which can be removed at any time.
    pub cache_dir: PathBuf,
    /// Size of the blobs of new disks, in bytes; `None` chooses it by the size of the disk.
    pub blob_size: Option<u64>,
    /// How long a maintenance may take, including its wait for other processes.
    pub maintain_timeout: Duration,
    /// Percentage of the data that a maintenance reads and checks; 0 checks only the structure.
    pub check_data: u32,
    /// Percentage of the stored data that may be unused after a maintenance.
    pub max_unused: u32,
    /// Its copies in other places, by unique names and addresses.
    pub copies: Vec<CopySettings>,
}

/// `None` if it is incomplete or invalid.
pub(super) fn read(place: &Place<'_>, problems: &mut Problems) -> Option<RepositorySettings> {
    let password = Secret::Env(String::new());
    let mut repository = RepositorySettings {
        path: PathBuf::new(),
        bucket: None,
        access_key_id: None,
        secret_access_key: None,
        region: REGION.to_owned(),
        ca_file: None,
        password,
        cache_dir: CACHE_DIR.into(),
        blob_size: None,
        maintain_timeout: Duration::from_secs(12 * 3600),
        check_data: 5,
        max_unused: 5,
        copies: Vec::new(),
    };
    let before = problems.count();
    let entries = key::inside(place, &mut repository, REPOSITORY, problems);
    key::require(place, &entries, "url", Some(URL), problems);
    require_password(place, &entries, problems);
    key::exclude(&entries, &SECRET_KEYS, problems);
    let names_key = key::find(&entries, "access_key_id");
    let names_secret = entries.iter().find(|entry| SECRET_KEYS.contains(&entry.name));
    match (names_key, names_secret) {
        (Some(key), None) => problems.add(key.wrong("requires the secret of the key", SECRET_KEYS.join(", "))),
        (None, Some(secret)) => problems.add(secret.problem("requires `access_key_id`")),
        _ => {}
    }
    if let Some(entry) = key::find(&entries, "copies") {
        copies::expect_different(entry, &repository, problems);
    }
    if repository.bucket.is_none() && problems.count() == before {
        for entry in entries.iter().filter(|entry| FOR_BUCKETS.contains(&entry.name)) {
            problems.add(entry.problem(format!("is only for a bucket: `url: {}`", BucketUrl::VALID)));
        }
    }
    (problems.count() == before).then_some(repository)
}

/// Reports that not exactly one of the keys for a password is given.
pub(super) fn require_password(place: &Place<'_>, entries: &[Place<'_>], problems: &mut Problems) {
    key::exclude(entries, &PASSWORDS, problems);
    if !entries.iter().any(|entry| PASSWORDS.contains(&entry.name)) {
        problems.add(place.wrong("requires a password", format!("one of {}", PASSWORDS.join(", "))));
    }
}

const URL: &str = "the absolute path of a directory, or s3:https://HOST[:PORT]/BUCKET[/PREFIX]";

/// A directory or a bucket. Another prefix is an error, because it does not mean a directory.
pub(super) fn url(to: &mut RepositorySettings, place: &Place<'_>, problems: &mut Problems) {
    let Some(text) = value::text(place, problems) else { return };
    if BucketUrl::is_meant(text) {
        match text.parse::<BucketUrl>() {
            Ok(bucket) => {
                to.path = bucket.to_string().into();
                to.bucket = Some(bucket);
            }
            Err(_) => problems.add(place.wrong("is not the URL of a bucket", URL)),
        }
        return;
    }
    match text.split_once(':') {
        Some((scheme, _)) if !text.starts_with('/') => {
            problems.add(place.wrong(format!("cannot be at `{}:`", scheme.escape_debug()), URL));
        }
        _ => key::put(&mut to.path, value::absolute(place, problems)),
    }
}

/// The size of blobs, in bytes: a power of two.
pub(super) fn blob_size(place: &Place<'_>, problems: &mut Problems) -> Option<u64> {
    let text = value::text(place, problems)?;
    let size = value::bytes(text).filter(|size| size.is_power_of_two() && BLOB_SIZES.contains(size));
    if size.is_none() {
        problems
            .add(place.wrong(format!("bad size {text:?}"), "64KiB, 128KiB, 256KiB, 512KiB, 1MiB, 2MiB, 4MiB, 8MiB"));
    }
    size
}

/// The name of an access key or of a region.
pub(super) fn word(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = value::text(place, problems)?;
    let right = text.len() <= 128 && text.chars().all(|c| c.is_ascii_graphic());
    if !right {
        problems.add(place.wrong(format!("bad name {text:?}"), "up to 128 printable characters without blanks"));
    }
    right.then(|| text.to_owned())
}
