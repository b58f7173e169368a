//! Maintains a repository: frees the space of removed restore points, and checks the structure and a part of the data.
//! Must not remove restore points, or repair anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::repair::BadPacks;
use super::restic::{Finished, Restic, summary};
use super::{Error, target};
use crate::config::{RepositorySettings, Settings};
use crate::store::{Inventory, Store};
use crate::sys::signals::Cancel;

/// Maximum number of errors of restic in a result.
const MAX_ERRORS: usize = 100;

/// Parts of the messages with which restic reports damage. Any other error is one of the target or of this host.
const DAMAGE: [&str; 5] = [
    "contains errors",
    "LoadIndex returned errors",
    "ciphertext verification failed",
    "invalid data returned",
    "not found in repository",
];

/// The result of a maintenance.
#[derive(Debug, Serialize)]
pub struct Maintenance {
    /// Directory of the repository.
    pub repository: PathBuf,
    /// When it began.
    pub started: DateTime<Utc>,
    /// When it ended.
    pub finished: DateTime<Utc>,
    /// The removal of unused data; `None` if it was not completed.
    pub prune: Option<Pruned>,
    /// The check; `None` if it did not end by itself.
    pub check: Option<Inspection>,
    /// What the repository contains now; `None` if it could not be measured.
    pub stored: Option<Inventory>,
    /// Why it failed.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// A completed removal of unused data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pruned {
    /// Duration in milliseconds, with the wait for other processes.
    pub duration_ms: u64,
    /// Bytes by which the repository is smaller.
    pub freed_bytes: u64,
    /// The part of the stored data that is unused and was kept, 0 to 1; `None` if restic did not print it.
    pub unused_ratio: Option<f64>,
}

/// A check of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Duration in milliseconds, without the wait for other processes.
    pub duration_ms: u64,
    /// Percentage of the data that was read; 0 if only the structure was checked.
    pub data_percent: u32,
    /// Whether no damage was found.
    pub good: bool,
    /// The first errors, as restic reports them.
    pub errors: Vec<String>,
    /// The packs in these and all other errors.
    #[serde(skip)]
    pub bad_packs: BadPacks,
}

/// Frees the space of removed restore points, and then checks the repository. `None` in the result means that a step was
/// not completed; `error` contains the reason.
///
/// # Errors
/// Nothing was done: the configuration has no repository, the repository cannot be opened, or there is no usable restic.
pub fn maintain(settings: &Settings, cancel: &Cancel) -> Result<Maintenance, Error> {
    let started = Utc::now();
    let (repository, store) = target::open_repository(settings)?;
    let restic = Restic::new(repository, &store, cancel)?;
    let (mut prune, mut check) = (None, None);
    let error = match self::prune(&restic, repository, &store) {
        Ok(pruned) => {
            prune = Some(pruned);
            None
        }
        Err(error) => Some(error),
    };
    // A prune that failed because of damage does not report all of it.
    let is_over = matches!(
        error,
        Some(Error::Cancelled(_) | Error::ResticTimeout { .. } | Error::RepositoryBusy { .. } | Error::Store(_))
    );
    let found = (!is_over).then(|| inspect(&restic, &store, repository.check_data));
    let error = match found {
        None => error,
        Some(Err(failed)) => error.or(Some(failed)),
        Some(Ok(inspection)) => {
            let damaged = damage(&repository.path, &inspection);
            check = Some(inspection);
            damaged.or(error)
        }
    };
    let measured = if cancel.signal().is_some() { None } else { Some(store.stats(cancel)) };
    let stored = measured.and_then(|measured| {
        measured.inspect_err(|error| tracing::warn!("cannot measure the repository: {}", super::chain(error))).ok()
    });
    let path = repository.path.clone();
    Ok(Maintenance { repository: path, started, finished: Utc::now(), prune, check, stored, error })
}

/// Checks the repository, with this percentage of its data.
///
/// # Errors
/// As [`maintain`]; also if the check did not end by itself. Damage is no error.
pub fn check(settings: &Settings, percent: u32, cancel: &Cancel) -> Result<Inspection, Error> {
    let (repository, store) = target::open_repository(settings)?;
    let restic = Restic::new(repository, &store, cancel)?;
    inspect(&restic, &store, percent)
}

/// Counts and measures what the repository contains.
///
/// # Errors
/// The configuration has no repository, or the repository cannot be read.
pub fn stats(settings: &Settings, cancel: &Cancel) -> Result<Inventory, Error> {
    let (_, store) = target::open_repository(settings)?;
    Ok(store.stats(cancel)?)
}

/// The error for damage that a check found.
pub fn damage(path: &Path, inspection: &Inspection) -> Option<Error> {
    let first = inspection.errors.first().map_or("unknown", String::as_str);
    let more = inspection.errors.len().saturating_sub(1);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    (!inspection.good).then(|| Error::RepositoryDamaged { path: path.to_owned(), message: format!("{first}{more}") })
}

fn prune(restic: &Restic<'_>, settings: &RepositorySettings, store: &Store) -> Result<Pruned, Error> {
    let began = std::time::Instant::now();
    let before = store.stored_bytes()?;
    match store.remove_leftovers() {
        Ok(0) => {}
        Ok(count) => tracing::info!("removed temporary files of interrupted processes: {count}"),
        Err(error) => tracing::warn!("{}", super::chain(&error)),
    }
    let (pruned, printed) = restic.ask("prune", &[format!("--max-unused={}%", settings.max_unused)])?;
    if !pruned.is_good {
        return Err(Error::Restic { command: "prune", message: summary(&pruned.messages) });
    }
    let freed_bytes = before.saturating_sub(store.stored_bytes()?);
    Ok(Pruned { duration_ms: ms(began.elapsed()), freed_bytes, unused_ratio: unused_ratio(&printed) })
}

/// The unused part in what `restic prune` prints: `unused size after prune: 1.2 MiB (0.50% of remaining size)`.
fn unused_ratio(printed: &str) -> Option<f64> {
    let line = printed.lines().find(|line| line.starts_with("unused size after prune:"))?;
    let (_, percent) = line.split_once('%')?.0.rsplit_once('(')?;
    percent.parse::<f64>().ok().map(|percent| percent / 100.0)
}

fn inspect(restic: &Restic<'_>, store: &Store, percent: u32) -> Result<Inspection, Error> {
    let data = match percent {
        0 => Vec::new(),
        100.. => vec!["--read-data".to_owned()],
        part => vec![format!("--read-data-subset={part}%")],
    };
    let checked = restic.run("check", &data)?;
    if !checked.is_good && !reports_damage(&checked) {
        return Err(Error::Restic { command: "check", message: summary(&checked.messages) });
    }
    if !checked.is_good {
        // A target that does not respond is no evidence of damage.
        store.stored_bytes()?;
    }
    let bad_packs = if checked.is_good { BadPacks::default() } else { BadPacks::of(&checked.messages) };
    let errors = if checked.is_good { Vec::new() } else { errors(checked.messages) };
    let (duration_ms, data_percent) = (ms(checked.time), percent.min(100));
    Ok(Inspection { duration_ms, data_percent, good: checked.is_good, errors, bad_packs })
}

fn reports_damage(checked: &Finished) -> bool {
    checked.messages.iter().any(|line| DAMAGE.iter().any(|part| line.contains(part)))
}

/// The errors in the messages of a check. A line that ends with a colon continues on the next one. The advice of restic
/// follows them: `restic repair snapshots` would shorten the disks in restore points.
fn errors(messages: Vec<String>) -> Vec<String> {
    let mut errors: Vec<String> = Vec::new();
    for line in messages.into_iter().take_while(|line| !line.starts_with("The repository ")) {
        match errors.last_mut() {
            Some(last) if last.ends_with(':') => *last = format!("{last} {line}"),
            _ => errors.push(line),
        }
    }
    // The last line only repeats that there are some.
    if errors.len() > 1 {
        errors.retain(|line| !line.starts_with("Fatal: "));
    }
    errors.truncate(MAX_ERRORS);
    errors
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn only_messages_about_stored_data_are_damage() {
        let finished = |line: &str| Finished { is_good: false, messages: words(&[line]), time: Duration::ZERO };
        for line in ["Fatal: repository contains errors", "Fatal: LoadIndex returned errors"] {
            assert!(reports_damage(&finished(line)), "{line}");
        }
        for line in ["Fatal: unable to open cache: mkdir /c: no space left on device", "Fatal: wrong password", ""] {
            assert!(!reports_damage(&finished(line)), "{line}");
        }
    }

    #[test]
    fn unused_part_is_read_from_the_output_of_restic() {
        let line = "to delete: 0 blobs / 0 B\nunused size after prune: 1.2 MiB (2.50% of remaining size)\n\ndone\n";
        assert_eq!(unused_ratio(line), Some(0.025));
        for line in ["", "unused size after prune: unlimited\n", "unused size after prune: 1 B (x% of\n"] {
            assert_eq!(unused_ratio(line), None, "{line}");
        }
    }

    #[test]
    fn first_error_is_reported_with_the_number_of_others() {
        let found = errors(words(&["pack a: x", "error for tree b:", "y", "Fatal: repository contains errors"]));
        assert_eq!(found, ["pack a: x", "error for tree b: y"]);
        assert_eq!(errors(words(&["Fatal: repository contains errors"])).len(), 1);
        let bad =
            Inspection { duration_ms: 1, data_percent: 5, good: false, errors: found, bad_packs: BadPacks::default() };
        let error = damage(Path::new("/r"), &bad).unwrap();
        assert!(error.is_damage() && error.to_string().ends_with("damaged: pack a: x (and 1 more)"), "{error}");
        assert!(damage(Path::new("/r"), &Inspection { good: true, ..bad }).is_none());
        assert_eq!(summary(&words(&["a", "Fatal: b", "c"])), "b");
        assert_eq!(summary(&words(&["a", "b"])), "a; b");
    }
}
