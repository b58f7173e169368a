//! Reads and writes `ledger.json` and `survey.json` in the state directory. Must not know their contents.
//!
//! A run, a verification, a restore and an exporter may change the ledger at the same time, so a change is a read, a
//! fold and a durable write under one lock. A file that cannot be understood is set aside, because metrics must not
//! prevent a backup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::Utc;
use serde::de::DeserializeOwned;

use super::{Ledger, Survey};
use crate::model::version::{self, Unreadable};
use crate::sys::step::{self, Step};
use crate::sys::{durable, lock, opened};

const LEDGER: &str = "ledger.json";
const LOCK: &str = "ledger.lock";
const SURVEY: &str = "survey.json";
/// Maximum size of either file in bytes; each guest needs a few kilobytes.
const MAX: u64 = 64 << 20;
/// The format version of both files that this program writes.
const VERSION: u32 = 1;
/// Extension of a file that was set aside because it could not be understood.
const BAD: &str = ".bad";

/// The ledger or the survey cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, locked or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A newer program wrote a file.
    #[error("{}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        source: Unreadable,
    },
    /// A value cannot be written as JSON.
    #[error("{}: cannot be written as JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
}

impl Error {
    fn file<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
        move |source| Error::File { action, path: path.to_owned(), source }
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::File { path, source, .. } if source.kind() == io::ErrorKind::InvalidData => Some(format!(
                "Backups are not affected, but metrics are. Check what it is, and move it away: ls -l {}",
                path.display()
            )),
            Error::File { path, .. } => Some(format!(
                "Backups are not affected, but metrics are. Check the mode and the file system: ls -ld {}",
                path.parent().unwrap_or(path).display()
            )),
            Error::Format { path, source } => source.hint(path),
            Error::Json { .. } => None,
        }
    }
}

impl Ledger {
    /// Whether a state directory has a ledger.
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join(LEDGER).exists()
    }

    /// Reads the ledger of a state directory. It is empty if it does not exist or cannot be understood.
    ///
    /// # Errors
    /// It cannot be read, or a newer program wrote it.
    pub fn load(state_dir: &Path) -> Result<Ledger, Error> {
        let path = state_dir.join(LEDGER);
        let Some(bytes) = read(&path)? else { return Ok(Ledger::default()) };
        let mut ledger: Ledger = parse(&path, &bytes)?.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot read the ledger; starting a new one");
            Ledger::default()
        });
        ledger.disbelieve(Utc::now());
        Ok(ledger)
    }
}

/// Changes the ledger of a state directory, which is created if it does not exist, and returns the new ledger. Waits
/// for concurrent changes. A ledger that cannot be understood is kept as `ledger.json.bad` and replaced by a new one.
///
/// # Errors
/// It cannot be locked, read or written, or a newer program wrote it.
pub fn update(state_dir: &Path, change: impl FnOnce(&mut Ledger)) -> Result<Ledger, Error> {
    let _lock = lock(state_dir)?;
    let path = state_dir.join(LEDGER);
    let mut ledger = match read(&path)?.map(|bytes| parse(&path, &bytes)).transpose()? {
        None => Ledger::default(),
        Some(Ok(ledger)) => ledger,
        Some(Err(error)) => {
            let mut aside = path.clone().into_os_string();
            aside.push(BAD);
            tracing::warn!(path = %path.display(), %error, "cannot read the ledger; setting it aside");
            let moved = step::reached(Step::LedgerSetAside).and_then(|()| fs::rename(&path, aside));
            moved.map_err(Error::file("set aside", &path))?;
            Ledger::default()
        }
    };
    ledger.disbelieve(Utc::now());
    change(&mut ledger);
    write(Step::LedgerWrite, &path, &ledger)?;
    Ok(ledger)
}

impl Survey {
    /// Reads the survey of a state directory; `None` if it does not exist or cannot be understood, because the next
    /// survey replaces it.
    ///
    /// # Errors
    /// It cannot be read, or a newer program wrote it.
    pub fn load(state_dir: &Path) -> Result<Option<Survey>, Error> {
        let path = state_dir.join(SURVEY);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        Ok(parse(&path, &bytes)?
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "cannot read the survey"))
            .ok())
    }

    /// Writes it to a state directory, which is created if it does not exist.
    ///
    /// # Errors
    /// It cannot be written, or a newer program wrote the existing one.
    pub fn save(&self, state_dir: &Path) -> Result<(), Error> {
        // All writers use the same temporary name, so only one may write at a time.
        let _lock = lock(state_dir)?;
        Survey::load(state_dir)?;
        write(Step::SurveyWrite, &state_dir.join(SURVEY), self)
    }
}

/// Creates the state directory if it does not exist, and waits for the lock on its files.
fn lock(state_dir: &Path) -> Result<lock::Lock, Error> {
    let folder = step::reached(Step::StateFolder).and_then(|()| durable::create_private_dir(state_dir));
    folder.map_err(Error::file("create the directory", state_dir))?;
    let path = state_dir.join(LOCK);
    step::reached(Step::LedgerLock).and_then(|()| lock::wait(&path)).map_err(Error::file("lock", &path))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match opened::read_file(path, MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some).map_err(Error::file("read", path)),
    }
}

/// The contents of a file, or why they cannot be understood. Fails if a newer program wrote it.
fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Result<T, Unreadable>, Error> {
    match version::parse(bytes, VERSION) {
        Err(source @ Unreadable::Newer { .. }) => Err(Error::Format { path: path.to_owned(), source }),
        parsed => Ok(parsed),
    }
}

fn write(step: Step, path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    let text = version::text(value, VERSION).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    step::reached(step).and_then(|()| durable::write(path, &text)).map_err(Error::file("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;

    #[test]
    fn concurrent_changes_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert_eq!(Ledger::load(&state).unwrap(), Ledger::default());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        update(&state, |ledger| ledger.jobs.entry("j".into()).or_default().last_duration_ms += 1)
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(Ledger::load(&state).unwrap().jobs["j"].last_duration_ms, 100);
        for name in [LEDGER, LOCK] {
            assert_eq!(fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o7777, 0o600, "{name}");
        }
    }

    #[test]
    fn unreadable_ledger_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "[1]", "{\"config_ok\": 1}", "\u{0}"] {
            fs::write(dir.path().join(LEDGER), text).unwrap();
            assert_eq!(Ledger::load(dir.path()).unwrap(), Ledger::default());
            let ledger = update(dir.path(), |ledger| ledger.config_ok = true).unwrap();
            assert_eq!(ledger, Ledger { config_ok: true, ..Ledger::default() });
            assert_eq!(fs::read_to_string(dir.path().join("ledger.json.bad")).unwrap(), text);
            assert_eq!(Ledger::load(dir.path()).unwrap(), ledger);
        }
    }

    #[test]
    fn every_released_version_is_readable() {
        use version::history::assert_read;
        let file = Path::new("f");
        let read = |bytes: &[u8]| parse::<Ledger>(file, bytes).unwrap();
        assert_read("ledger", read, |ledger| version::text(ledger, VERSION).unwrap());
        let read = |bytes: &[u8]| parse::<Survey>(file, bytes).unwrap();
        assert_read("survey", read, |survey| version::text(survey, VERSION).unwrap());
    }

    #[test]
    fn file_of_a_newer_program_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let newer = r#"{"schema": 2, "config_ok": true}"#;
        let survey: Survey = serde_json::from_str(include_str!("../../tests/formats/survey/1.6.json")).unwrap();
        for name in [LEDGER, SURVEY] {
            fs::write(dir.path().join(name), newer).unwrap();
        }
        let errors = [
            Ledger::load(dir.path()).unwrap_err(),
            update(dir.path(), |_| ()).unwrap_err(),
            Survey::load(dir.path()).unwrap_err(),
            survey.save(dir.path()).unwrap_err(),
        ];
        for error in errors {
            assert!(error.hint().unwrap().contains(".json.newer"), "{error:?}");
        }
        for name in [LEDGER, SURVEY] {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), newer);
        }
    }

    #[test]
    fn ledger_of_an_older_program_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LEDGER), r#"{"jobs": {"j": {}}, "domains": {"d": {"job": "j"}}, "new": 1}"#).unwrap();
        let ledger = update(dir.path(), |_| ()).unwrap();
        assert_eq!((ledger.domains["d"].job.as_str(), ledger.jobs.len()), ("j", 1));
        assert!(!dir.path().join("ledger.json.bad").exists());
    }

    #[test]
    fn write_error_names_the_path_and_has_a_hint() {
        let error = update(Path::new("/dev/null/state"), |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "cannot create the directory /dev/null/state");
        assert!(error.hint().unwrap().ends_with("/dev/null"));
    }
}
