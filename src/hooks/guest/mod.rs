//! Owns: running hooks in a guest through its agent: their folder there, commands, sessions, artifacts. Must not: reach the
//! guest in any other way, or trust its answers.

mod exec;
mod process;
mod session;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::exec::{Done, Pace};
use self::process::{Process, State};
use self::session::Session;
use super::artifacts::{check_count, check_name, check_size, refused};
use super::{Call, Deadlines, Ended, Error, Ran, Runner, Started};
use crate::sys::signals::Cancel;

/// How often a starting session is queried: from `READY` on it blocks an application.
const READY: Duration = Duration::from_millis(100);
/// Added to the deadlines of a session in the guest, which counts whole seconds.
const ROUNDING: Duration = Duration::from_secs(2);
/// How long all artifacts together may take, because an agent could delay each answer as long as possible.
const FETCH_ALL: Duration = Duration::from_secs(120);

/// The folder has mode 0700 and the file 0600. No other process can create it first, because its name is random.
const PREPARE: &str = r#"umask 077; mkdir -p "$0/artifacts" && cat >"$0/context.json""#;
/// The names, each ended by a zero byte.
const LIST: &str = r#"cd "$0/artifacts" || exit 1
for f in * .*; do
  case $f in . | ..) continue ;; esac
  if [ -e "$f" ] || [ -L "$f" ]; then printf '%s\0' "$f"; fi
done"#;
/// One byte more than a file may have. The path is absolute, so no name is read as an option.
const FETCH: &str = r#"f=$0/artifacts/$1; [ -f "$f" ] && [ ! -L "$f" ] || exit 3; exec head -c 1048577 "$f""#;
const CLEAN: &str = r#"rm -rf "$0""#;

/// The agent of one guest.
pub trait Agent: Sync {
    /// One command of the agent, `{"execute": …, "arguments": …}`, and the value of `return` in its answer.
    ///
    /// # Errors
    /// The agent is not running, does not answer in time, or refuses.
    fn command(&self, request: &Value) -> Result<Value, Box<dyn std::error::Error + Send + Sync>>;
}

/// Hooks as processes of a guest, which must have `/bin/sh`, `timeout`, `setsid`, `mkfifo`, `head` and `tail`.
///
/// Their files are in a folder in the guest's `/run`, from [`Guest::prepare`] to [`Guest::clean`].
pub struct Guest<'a> {
    agent: &'a dyn Agent,
    run_id: String,
    folder: String,
    context: String,
    artifacts: String,
    hooks: AtomicU32,
}

impl<'a> Guest<'a> {
    /// Nothing is done in the guest yet. `run_id` is for the log.
    pub fn new(agent: &'a dyn Agent, run_id: &str) -> Guest<'a> {
        let folder = format!("/run/kvmbackup-{}", uuid::Uuid::new_v4().simple());
        let (context, artifacts) = (format!("{folder}/context.json"), format!("{folder}/artifacts"));
        Guest { agent, run_id: run_id.to_owned(), folder, context, artifacts, hooks: AtomicU32::new(0) }
    }

    /// Creates the folder with this context in it. If it exists, the context is replaced.
    ///
    /// # Errors
    /// [`Error::Agent`] or [`Error::Answer`].
    pub fn prepare(&self, context: &[u8]) -> Result<(), Error> {
        tracing::debug!(run = self.run_id, folder = self.folder, "hooks in the guest");
        exec::output(self.agent, "create a directory for hooks", PREPARE, &[&self.folder], Some(context)).map(drop)
    }

    /// The context's path in the guest.
    pub fn context_path(&self) -> &str {
        &self.context
    }

    /// The path in the guest of the folder for artifacts.
    pub fn artifact_dir(&self) -> &str {
        &self.artifacts
    }

    /// Fetches the artifacts of hooks in [`Guest::artifact_dir`], with the rules of [`super::artifacts()`].
    ///
    /// # Errors
    /// [`Error::Artifact`] as there; [`Error::Agent`] or [`Error::Answer`].
    pub fn artifacts(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let started = Instant::now();
        let names = exec::output(self.agent, "list the hooks' artifacts", LIST, &[&self.folder], None)?;
        let names = names.strip_suffix(b"\0").unwrap_or(&names);
        let mut found = Vec::new();
        for name in names.split(|byte| *byte == 0).filter(|_| !names.is_empty()) {
            check_name(name)?;
            let name = String::from_utf8_lossy(name).into_owned();
            check_count(found.len() + 1, &name)?;
            if started.elapsed() > FETCH_ALL {
                let answer = format!("it took more than {} seconds", FETCH_ALL.as_secs());
                return Err(Error::Answer { action: "read the hooks' artifacts", answer });
            }
            let bytes = self.fetch(&name)?;
            found.push((name, bytes));
        }
        found.sort();
        Ok(found)
    }

    fn fetch(&self, name: &str) -> Result<Vec<u8>, Error> {
        let action = "read a hook's artifact";
        match exec::script(self.agent, action, FETCH, &[&self.folder, name], None)? {
            Done { code: Some(0), output } => {
                check_size(output.len(), name)?;
                Ok(output)
            }
            Done { code: Some(3), .. } => refused(name.as_bytes(), "it is not a regular file"),
            Done { code, .. } => Err(Error::Answer { action, answer: format!("it failed with status {code:?}") }),
        }
    }

    /// Removes the folder. If that fails, it is logged, and the folder remains until the guest is restarted.
    pub fn clean(&self) {
        if let Err(error) = exec::output(self.agent, "remove the hooks' directory", CLEAN, &[&self.folder], None) {
            tracing::warn!(folder = self.folder, "{error}");
        }
    }

    fn start(&self, call: &Call, all: Duration, hold: Duration) -> Result<Process<'a>, Error> {
        let files = format!("{}/{}", self.folder, self.hooks.fetch_add(1, Ordering::Relaxed));
        Process::start(self.agent, files, call, all, hold)
    }
}

impl<'a> Runner<'a> for Guest<'a> {
    fn run(&self, call: &Call, timeout: Duration, cancel: Option<&Cancel>) -> Result<Ran, Error> {
        let mut process = self.start(call, timeout, Duration::ZERO)?;
        let forced = follow(&mut process, cancel)?;
        if forced.is_some() {
            process.stop()?;
        }
        process.finish(forced)
    }

    fn hold(&self, call: &Call, deadlines: Deadlines, cancel: Option<&Cancel>) -> Result<Started<'a>, Error> {
        let Deadlines { ready, hold, release } = deadlines;
        let all = ready.saturating_add(hold).saturating_add(release).saturating_add(ROUNDING);
        // Zero would make it a command.
        let mut process = self.start(call, all, hold.max(Duration::from_secs(1)))?;
        let state = follow_until_ready(&process, ready, cancel);
        let forced = match state {
            Ok(Ok(State::Ready)) => return Ok(Started::Ready(Box::new(Session::new(process, deadlines)))),
            Ok(Ok(_)) => process.wait(process.end())?,
            Ok(Err(forced)) => {
                process.stop()?;
                Some(forced)
            }
            Err(error) => {
                // It may hold by now.
                let _ = process.stop();
                return Err(error);
            }
        };
        process.finish(forced).map(Started::NotReady)
    }
}

/// Waits until a command has ended, or returns why it must be ended. The guest enforces its deadline.
fn follow(process: &mut Process<'_>, cancel: Option<&Cancel>) -> Result<Option<Ended>, Error> {
    let mut pace = Pace::new();
    loop {
        if process.has_ended()? {
            return Ok(None);
        }
        if is_cancelled(cancel) {
            return Ok(Some(Ended::Cancelled));
        }
        if Instant::now() >= process.end() {
            return Ok(Some(Ended::TimedOut));
        }
        pace.wait();
    }
}

/// Waits until a session holds or has ended, or returns why it must be ended.
fn follow_until_ready(
    process: &Process<'_>,
    ready: Duration,
    cancel: Option<&Cancel>,
) -> Result<Result<State, Ended>, Error> {
    let started = Instant::now();
    loop {
        let state = process.state()?;
        if state != State::Starting {
            return Ok(Ok(state));
        }
        if is_cancelled(cancel) {
            return Ok(Err(Ended::Cancelled));
        }
        if started.elapsed() >= ready {
            return Ok(Err(Ended::TimedOut));
        }
        thread::sleep(READY);
    }
}

fn is_cancelled(cancel: Option<&Cancel>) -> bool {
    cancel.is_some_and(|cancel| cancel.signal().is_some())
}
