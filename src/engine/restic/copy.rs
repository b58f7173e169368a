//! Runs restic on a copy of the repository: its environment, what the copy contains, and stale locks there. Must not decide
//! what is copied.

use std::ffi::OsString;
use std::io::{BufReader, Read, Seek};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::{Attempt, CONFIG, MAX_ANSWER, Restic, failed, memory, summary};
use crate::config::{CopySettings, RepositorySettings};
use crate::engine::Error;
use crate::model::PointId;
use crate::retention::StoredPoint;
use crate::store::{self, Access, Store};
use crate::sys::process;
use crate::sys::signals::Cancel;

/// Variables that restic and the programs that it starts read for places other than directories.
const PASSED: [&str; 12] = [
    "HOME",
    "SSH_AUTH_SOCK",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "RESTIC_CACERT",
    "RESTIC_TLS_CLIENT_CERT",
    "RESTIC_REST_USERNAME",
    "RESTIC_REST_PASSWORD",
];
/// How the names of more such variables start.
const PREFIXES: [&str; 8] = ["AWS_", "AZURE_", "B2_", "GOOGLE_", "OS_", "RCLONE_", "ST_", "SWIFT_"];
/// Part of the message of every version if there is no repository, or if it cannot be reached.
const NOT_OPENED: &str = "Is there a repository at the following location?";
/// Age from which restic treats a lock as stale without looking for its process. A running restic renews its lock.
const STALE: TimeDelta = TimeDelta::minutes(30);
/// Maximum number of snapshots in one command line.
const BATCH: usize = 500;

/// The parts of a snapshot that restic lists.
#[derive(Deserialize)]
struct Snapshot {
    id: String,
    time: DateTime<Utc>,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct Configuration {
    id: String,
}

#[derive(Deserialize)]
struct Lock {
    time: DateTime<Utc>,
}

impl<'a> Restic<'a> {
    /// As [`Restic::new`], for a copy of this repository.
    pub(in crate::engine) fn of_copy(
        settings: &'a RepositorySettings,
        copy: &CopySettings,
        store: &'a Store,
        cancel: &'a Cancel,
    ) -> Result<Restic<'a>, Error> {
        let source = Restic::new(settings, store, cancel)?;
        let access = Access { bucket: None, password: copy.password.clone(), ..source.access.clone() };
        let password = access.password()?;
        let mut variables: Vec<_> = inherited().collect();
        variables.extend(source.variables.into_iter().map(|(name, value)| {
            let of_repository = name.strip_prefix("RESTIC_");
            (of_repository.map_or_else(|| name.clone(), |rest| format!("RESTIC_FROM_{rest}")), value)
        }));
        // Not as an argument, because other users can read the arguments of a process.
        variables.push(("RESTIC_REPOSITORY".to_owned(), copy.to.exposed().into()));
        variables.push(("RESTIC_PASSWORD".to_owned(), password.into()));
        Ok(Restic {
            place: copy.to.to_string(),
            variables,
            hidden: copy.to.secrets(),
            is_copy: true,
            limit: copy.timeout,
            deadline: process::after(copy.timeout),
            ..source
        })
    }

    /// The ID of the copy.
    ///
    /// # Errors
    /// [`Error::NoCopy`] if it does not exist or cannot be reached; if the password is wrong.
    pub(in crate::engine) fn id(&self) -> Result<String, Error> {
        let answer = self.peek(CONFIG, &["config"])?;
        Ok(serde_json::from_reader::<_, Configuration>(answer).map_err(Error::Json)?.id)
    }

    /// The restore points in the copy.
    pub(in crate::engine) fn points(&self) -> Result<Vec<StoredPoint>, Error> {
        let answer = self.peek("snapshots", &["--json", "--tag", store::TAG])?;
        let snapshots: Option<Vec<Snapshot>> = serde_json::from_reader(answer).map_err(Error::Json)?;
        let stored = |snapshot: Snapshot| StoredPoint {
            guest: store::guest(&snapshot.tags),
            protected: store::is_protected(&snapshot.tags),
            domain: snapshot.hostname,
            point: PointId::at(snapshot.time),
            snapshot: snapshot.id,
        };
        Ok(snapshots.unwrap_or_default().into_iter().map(stored).collect())
    }

    /// Runs a command that must succeed.
    pub(in crate::engine) fn expect(&self, command: &'static str, options: &[String]) -> Result<(), Error> {
        match self.run(command, options)? {
            done if done.is_good => Ok(()),
            done => Err(Error::Restic { command, message: summary(&done.messages) }),
        }
    }

    /// Runs a command for these restore points, which must succeed.
    pub(in crate::engine) fn each(&self, command: &'static str, points: &[StoredPoint]) -> Result<(), Error> {
        points.chunks(BATCH).try_for_each(|batch| {
            let ids: Vec<String> = batch.iter().map(|point| point.snapshot.clone()).collect();
            self.expect(command, &ids)
        })
    }

    /// Removes the locks in the copy if restic treats all of them as stale because of their age. For a younger lock,
    /// `restic unlock` sends SIGHUP to the process with its ID, which may be another program by now.
    pub(super) fn unlock_copy(&self) -> Result<(), Error> {
        let mut listed = String::new();
        self.peek("list", &["locks"])?.read_to_string(&mut listed).map_err(failed("list"))?;
        for id in listed.split_whitespace() {
            let answer = self.peek("cat", &["lock", id]);
            // A lock that cannot be read may be in use, or was just released.
            let lock = answer.ok().and_then(|answer| serde_json::from_reader::<_, Lock>(answer).ok());
            if lock.is_none_or(|lock| Utc::now() - lock.time <= STALE) {
                return Ok(());
            }
        }
        tracing::warn!("{}: removing locks that are older than {} minutes", self.place, STALE.num_minutes());
        self.expect_unlocked()
    }

    fn expect_unlocked(&self) -> Result<(), Error> {
        let output = memory().map_err(failed("unlock"))?;
        match self.attempt(&output, "unlock", &[])? {
            Attempt::Finished(done) if !done.is_good => {
                Err(Error::Restic { command: "unlock", message: summary(&done.messages) })
            }
            _ => Ok(()),
        }
    }

    /// The standard output of a command that only reads. It takes no lock.
    fn peek(&self, command: &'static str, words: &[&str]) -> Result<impl Read + use<>, Error> {
        let failed = failed(command);
        let mut answer = memory().map_err(&failed)?;
        let options: Vec<String> = words.iter().chain(&["--no-lock"]).map(|word| (*word).to_owned()).collect();
        match self.attempt(&answer, command, &options)? {
            Attempt::Finished(done) if done.is_good => {
                // It may have skipped a snapshot that cannot be read.
                done.messages.iter().for_each(|message| tracing::warn!("{}: restic: {message}", self.place));
                answer.rewind().map_err(&failed)?;
                Ok(BufReader::new(answer.take(MAX_ANSWER)))
            }
            Attempt::Finished(done) if done.messages.iter().any(|line| line.contains(NOT_OPENED)) => {
                Err(Error::NoCopy { message: summary(&done.messages) })
            }
            Attempt::Finished(done) => Err(Error::Restic { command, message: summary(&done.messages) }),
            Attempt::Locked(message) => Err(Error::Restic { command, message }),
        }
    }
}

/// The variables of this process that restic needs for some places.
fn inherited() -> impl Iterator<Item = (String, OsString)> {
    let named = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    named.filter(|(name, _)| PASSED.contains(&name.as_str()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}
