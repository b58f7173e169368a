//! Runs `restic` on the repository of the configuration or on a copy of it, with a deadline. Must not decide what it is run
//! for, or show a password.

mod copy;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Signal;

use super::{Error, target};
use crate::config::RepositorySettings;
use crate::model::size;
use crate::store::{Access, Store};
use crate::sys::durable;
use crate::sys::output::BoundedOutput;
use crate::sys::process::{self, Answer, Ended, Process};
use crate::sys::program::{self, Stream};
use crate::sys::signals::Cancel;

/// The oldest version that knows format version 2 of a repository.
const OLDEST: (u32, u32) = (0, 14);
/// Maximum length of the error messages that are kept, in bytes.
const MAX_MESSAGES: usize = 16 << 10;
/// Maximum length of an answer that is kept, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// How long `restic version` may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between SIGINT and SIGKILL. restic finishes writes in progress and removes its lock.
const GRACE: Duration = Duration::from_secs(30);
/// First and longest pause between attempts to lock the repository. restic spends a second of CPU time on each.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Interval of checks for a signal during a pause.
const SLICE: Duration = Duration::from_millis(100);
/// The command that reads one small object, such as the configuration, which comes first. Since version 0.17, restic tries for 15 minutes
/// to read it from a server that cannot be reached, and each command would begin with that.
const CONFIG: &str = "cat";

/// The exit code of restic 0.17 and newer if the repository is locked.
const LOCKED: i32 = 11;
/// The message of every version if the repository is locked.
const LOCKED_MESSAGE: &str = "repository is already locked";

/// A repository, and how `restic` is run on it.
pub(super) struct Restic<'a> {
    /// The address of the repository, for messages.
    place: String,
    /// The repository of the configuration, which is also the source of a copy.
    store: &'a Store,
    access: Access,
    variables: Vec<(String, OsString)>,
    /// Passwords that no message may contain.
    hidden: Vec<String>,
    is_copy: bool,
    cache: PathBuf,
    limit: Duration,
    deadline: Instant,
    cancel: &'a Cancel,
    version: (u32, u32),
}

/// A `restic` that has ended by itself.
#[derive(Debug)]
pub(super) struct Finished {
    pub is_good: bool,
    /// The lines that it wrote to standard error.
    pub messages: Vec<String>,
    pub time: Duration,
}

impl<'a> Restic<'a> {
    /// Finds a suitable `restic` and reads the password. The deadline starts now.
    pub(super) fn new(
        settings: &'a RepositorySettings,
        store: &'a Store,
        cancel: &'a Cancel,
    ) -> Result<Restic<'a>, Error> {
        let version = expect_suitable()?;
        let access = target::access(settings);
        let cache = settings.cache_dir.join("restic");
        durable::create_private_dir(&cache).map_err(Error::file("create the directory", &cache))?;
        let limit = settings.maintain_timeout;
        let variables = access.variables()?.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
        let mut variables: Vec<_> = variables.collect();
        variables.push(("RESTIC_REPOSITORY".to_owned(), settings.path.clone().into()));
        Ok(Restic {
            place: settings.path.display().to_string(),
            store,
            variables,
            access,
            hidden: Vec::new(),
            is_copy: false,
            cache,
            limit,
            deadline: process::after(limit),
            cancel,
            version,
        })
    }

    /// Version of restic: the first two numbers.
    pub(super) fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Runs a command of restic to its end. Waits while another process has locked the repository.
    ///
    /// # Errors
    /// The deadline or a signal ended it, the repository stayed locked, or restic cannot be started.
    pub(super) fn run(&self, command: &'static str, options: &[String]) -> Result<Finished, Error> {
        let nothing = OpenOptions::new().write(true).open("/dev/null");
        self.run_into(&nothing.map_err(failed(command))?, command, options)
    }

    /// The same, and returns what restic printed.
    ///
    /// # Errors
    /// As for [`Restic::run`].
    pub(super) fn ask(&self, command: &'static str, options: &[String]) -> Result<(Finished, String), Error> {
        let mut answer = memory().map_err(failed(command))?;
        let finished = self.run_into(&answer, command, options)?;
        let mut text = String::new();
        let read = answer.rewind().and_then(|()| answer.take(MAX_ANSWER).read_to_string(&mut text));
        read.map_err(failed(command))?;
        Ok((finished, text))
    }

    fn run_into(&self, answer: &File, command: &'static str, options: &[String]) -> Result<Finished, Error> {
        let mut pause = PAUSES.0;
        let mut locked = None;
        loop {
            match self.store.remove_stale_locks()? {
                0 => {}
                count => tracing::warn!("removed locks of interrupted processes from the repository: {count}"),
            }
            let holder = match self.attempt(answer, command, options)? {
                Attempt::Finished(finished) => return Ok(finished),
                Attempt::Locked(holder) => holder,
            };
            if self.is_copy {
                self.unlock_copy()?;
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if locked.is_none() {
                tracing::warn!("{}: {holder}; waiting up to {}", self.place, size::duration(left));
            }
            let since = *locked.get_or_insert_with(Instant::now);
            if left <= pause {
                let path = self.place.clone().into();
                return Err(Error::RepositoryBusy { path, holder, waited: size::duration(since.elapsed()) });
            }
            self.wait(pause)?;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn wait(&self, pause: Duration) -> Result<(), Error> {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            if let Some(signal) = self.cancel.signal() {
                return Err(Error::Cancelled(signal));
            }
            thread::sleep(SLICE);
        }
        Ok(())
    }

    /// `answer` takes its standard output.
    fn attempt(&self, answer: &File, command: &'static str, options: &[String]) -> Result<Attempt, Error> {
        let failed = failed(command);
        // It ends with this process, even after SIGKILL, and then removes its lock.
        let mut called = program::command("setpriv");
        called.args(["--pdeathsig", "INT", "--", "restic", command]);
        called.arg("--cache-dir").arg(&self.cache).args(options);
        called.envs(self.variables.iter().map(|(name, value)| (name, value))).env("TMPDIR", &self.cache);
        // `restic repair packs` leaves copies of the packs there.
        called.current_dir(&self.cache);
        if let Some(certificates) = self.access.ca_file() {
            called.arg("--cacert").arg(certificates);
        }
        let answer = answer.try_clone().map_err(&failed)?;
        let errors = BoundedOutput::new("restic", MAX_MESSAGES).hiding(self.hidden.clone());
        let mut process = Process::start(called, Stream::Null, Answer::File(answer.into()), errors).map_err(&failed)?;
        let answered = (command == CONFIG).then(|| process::after(self.store.patience().limit()));
        let deadline = answered.map_or(self.deadline, |answered| answered.min(self.deadline));
        let forced = process.follow(deadline, Some(self.cancel), |_| false).map_err(&failed)?;
        if forced.is_some() {
            // restic handles SIGTERM only from version 0.17 on.
            process.stop_by(Signal::INT, GRACE);
        }
        let ran = process.finish(forced);
        let messages = lines(&ran.output);
        match ran.ended {
            Ended::TimedOut if deadline < self.deadline => {
                let limit = size::duration(self.store.patience().limit());
                let why = retried(&ran.output).map_or(String::new(), |why| format!(": {why}"));
                Err(Error::Restic { command, message: format!("no answer within {limit}{why}") })
            }
            Ended::TimedOut => Err(Error::ResticTimeout { command, limit: size::duration(self.limit) }),
            Ended::Cancelled => Err(Error::Cancelled(self.cancel.signal().unwrap_or_default())),
            Ended::Signal(signal) => {
                Err(Error::Restic { command, message: format!("it was ended by signal {signal}") })
            }
            Ended::Exit(0) => Ok(Attempt::Finished(Finished { is_good: true, messages, time: ran.time })),
            Ended::Exit(code) => Ok(match holder(code, &messages) {
                Some(holder) => Attempt::Locked(holder),
                None => Attempt::Finished(Finished { is_good: false, messages, time: ran.time }),
            }),
        }
    }
}

/// A file in memory.
fn memory() -> io::Result<File> {
    Ok(memfd_create("restic", MemfdFlags::CLOEXEC)?.into())
}

enum Attempt {
    Finished(Finished),
    /// With a sentence about the process that has the lock.
    Locked(String),
}

/// For `map_err`: a command of restic cannot be run.
fn failed(command: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Restic { command, message: error.to_string() }
}

/// The message of a failed restic: its last word, or everything.
pub(super) fn summary(messages: &[String]) -> String {
    match messages.iter().rev().find_map(|line| line.strip_prefix("Fatal: ")) {
        Some(fatal) => fatal.to_owned(),
        None if messages.is_empty() => "it reported no reason".to_owned(),
        None => messages.join("; "),
    }
}

/// The sentence of restic about the process that has locked the repository, if that is why it failed.
fn holder(code: i32, messages: &[String]) -> Option<String> {
    let said = messages.iter().find_map(|line| line.find(LOCKED_MESSAGE).map(|at| line[at..].to_owned()));
    said.or_else(|| (code == LOCKED).then(|| LOCKED_MESSAGE.to_owned()))
}

/// The error that restic met last, if it tried again after that.
fn retried(output: &str) -> Option<String> {
    let announced =
        output.lines().rev().find_map(|line| line.split_once("returned error, retrying after ")?.1.split_once(": "));
    announced.map(|(_, error)| error.trim().to_owned())
}

/// The messages in an output: no control sequences, empty lines, announcements of further attempts, or stack traces.
fn lines(output: &str) -> Vec<String> {
    // BoundedOutput has replaced the escape character.
    let clean = output.lines().map(|line| line.replace("\u{fffd}[2K", "").trim().to_owned());
    clean
        .filter(|line| !line.is_empty() && !line.contains("returned error, retrying after") && !is_frame(line))
        .collect()
}

/// Whether a line is part of a Go stack trace: a function, or a line of a file.
fn is_frame(line: &str) -> bool {
    let function = ["github.com/", "golang.org/", "runtime.", "main."].iter().any(|start| line.starts_with(start));
    let place = line.rsplit_once(':').is_some_and(|(file, number)| {
        [".go", ".s"].iter().any(|end| file.ends_with(end)) && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    function || place
}

/// The version of `restic`. Fails unless it is installed and new enough.
fn expect_suitable() -> Result<(u32, u32), Error> {
    let mut command = program::command("restic");
    command.arg("version");
    let output = BoundedOutput::new("restic", MAX_MESSAGES);
    let ran = Process::start(command, Stream::Null, Answer::Joined, output)
        .and_then(|process| process.run(VERSION_TIMEOUT, None));
    let refused = |message, hint: &str| Err(Error::Rejected { message, hint: Some(hint.to_owned()) });
    match ran {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            refused("restic is not installed".to_owned(), "Install restic 0.14 or newer: apt-get install restic")
        }
        Err(error) => refused(format!("cannot run restic: {error}"), "Check the program: restic version"),
        Ok(ran) => {
            let line = lines(&ran.output).into_iter().next().unwrap_or_default();
            match version(&line) {
                Some(version) if version >= OLDEST => Ok(version),
                Some((major, minor)) => refused(
                    format!("restic {major}.{minor} is too old: a repository of format version 2 needs 0.14 or newer"),
                    "Install a newer restic, for example from Debian's backports.",
                ),
                None => refused(
                    format!("restic has no known version: {line:?}"),
                    "Check which program that is: restic version",
                ),
            }
        }
    }
}

/// The first two numbers of `restic 0.14.0 compiled with …`.
fn version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.strip_prefix("restic ")?.split(['.', ' ', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_the_last_attempt_is_found() {
        let refused =
            "Load(<config/>, 0, 0) returned error, retrying after 1.2s: dial tcp 127.0.0.1:1: connection refused";
        assert_eq!(retried(refused).as_deref(), Some("dial tcp 127.0.0.1:1: connection refused"));
        assert_eq!(retried(&format!("x returned error, retrying after 1s: first\n{refused}\nmore")), retried(refused));
        assert_eq!((retried(""), retried("Fatal: no")), (None, None));
    }

    #[test]
    fn versions_are_read_and_compared() {
        for (line, expected) in [
            ("restic 0.14.0 compiled with go1.19.8 on linux/amd64", Some((0, 14))),
            ("restic 0.17.3-dev (compiled manually) compiled with go1.23", Some((0, 17))),
            ("restic 1.0-rc compiled", Some((1, 0))),
            ("restic 0.12.1", Some((0, 12))),
            ("rustic 0.14.0", None),
            ("restic x.y", None),
            ("", None),
        ] {
            assert_eq!(version(line), expected, "{line}");
        }
        assert!((0, 12) < OLDEST && (0, 14) >= OLDEST && (0, 17) >= OLDEST && (1, 0) >= OLDEST);
    }

    #[test]
    fn lock_of_another_process_is_recognized_in_every_version() {
        let line =
            "unable to create lock in backend: repository is already locked by PID 7 on h by root (UID 0, GID 0)";
        let older = holder(1, &[line.to_owned(), "the `unlock` command can be used".to_owned()]);
        assert_eq!(older.unwrap(), "repository is already locked by PID 7 on h by root (UID 0, GID 0)");
        assert!(holder(11, &[]).is_some());
        assert!(holder(1, &["Fatal: repository contains errors".to_owned()]).is_none());
    }

    #[test]
    fn messages_have_no_control_sequences_attempts_or_stack_traces() {
        let output = "\u{fffd}[2Ksignal interrupt received\n\n\
                      Load(<data/b3>, 250, 332) returned error, retrying after 552.3ms: open r: no such file or directory\n\
                      id af not found in repository\n\
                      github.com/restic/restic/internal/repository.(*Repository).LoadBlob\n\
                      \tgithub.com/restic/restic/internal/repository/repository.go:256\n\
                      runtime.goexit\n\truntime/asm_amd64.s:1594\n  Fatal: x \n";
        assert_eq!(lines(output), ["signal interrupt received", "id af not found in repository", "Fatal: x"]);
    }
}
