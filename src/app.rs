//! Composes the real parts: settings, lock, journal, libvirt. Only this module names every adapter. Must not print, or
//! do the work of a command.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{self, HookPlace, Mail, Settings};
use crate::engine;
use crate::exporter;
use crate::hypervisor::{self, Hypervisor, Libvirt};
use crate::ledger;
use crate::metrics;
use crate::model::{Failure, Listen, RunResult};
use crate::store;
use crate::sys::lock::{self, Lock};
use crate::sys::secret::Secret;
use crate::sys::signals::Cancel;
use crate::sys::step::{self, Step};
use crate::sys::trust::{self, Refused};
use crate::sys::{durable, host};

pub mod mail;
pub mod run;
pub mod serve;
pub mod watch;

/// Pause between attempts to connect to libvirt.
const CONNECT_AGAIN: Duration = Duration::from_millis(250);

/// Why a command could not start, or failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Errors),
    #[error("another run holds the lock {} ({holder})", path.display())]
    Locked { path: PathBuf, holder: String },
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
    #[error(transparent)]
    Exporter(#[from] exporter::Error),
    #[error(transparent)]
    Engine(#[from] engine::Error),
    #[error("cannot update the ledger")]
    Watch(#[from] ledger::Error),
    #[error("cannot update the metrics")]
    Metrics(#[from] metrics::Error),
    #[error("the report cannot be mailed")]
    Mail(#[from] crate::mail::Error),
    #[error("the configuration has no `mail` section")]
    NoMail,
    #[error("the configuration does not set `metrics.textfile`")]
    NoTextfile,
}

impl Error {
    /// The result of a command that fails with this error.
    pub fn result(&self) -> RunResult {
        match self {
            Error::Config(_) | Error::NoTextfile | Error::NoMail => RunResult::Usage,
            Error::Locked { .. } => RunResult::Locked,
            Error::Hypervisor(error) => of_hypervisor(error),
            Error::Engine(error) => of_engine(error),
            Error::Exporter(_) => RunResult::Failed,
            Error::Watch(_) | Error::Metrics(_) | Error::Mail(_) => RunResult::Untidy,
        }
    }

    /// The whole chain of causes as one line, with the hint.
    pub fn failure(&self) -> Failure {
        Failure { message: engine::chain(self), hint: self.hint() }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Config(errors) => errors.hint.as_deref().map(str::to_owned),
            Error::Locked { .. } => {
                let hint = "Wait for it to end, or check what it is doing. The lock is never stale: it is released when \
                            its process ends.";
                Some(hint.into())
            }
            Error::Hypervisor(error) => error.hint(),
            Error::Exporter(error) => error.hint(),
            Error::Engine(error) => error.hint(),
            Error::Watch(error) => error.hint(),
            Error::Metrics(error) => error.hint(),
            Error::Mail(error) => error.hint(),
            Error::NoMail => Some("Add `mail: {to: root}` to the configuration; see docs/config.md, \"Mail\".".into()),
            Error::NoTextfile => Some("Set it, or print the metrics: kvmbackup metrics --stdout".into()),
        }
    }
}

fn of_hypervisor(error: &hypervisor::Error) -> RunResult {
    match error.kind() {
        hypervisor::Kind::Unreachable | hypervisor::Kind::Remote => RunResult::Hypervisor,
        _ => RunResult::Failed,
    }
}

fn of_engine(error: &engine::Error) -> RunResult {
    match error {
        engine::Error::Copy { source, .. } => of_engine(source),
        engine::Error::Hypervisor(error) => of_hypervisor(error),
        engine::Error::Store(store::Error::NoRepository { .. })
        | engine::Error::NoCopies
        | engine::Error::NoStore { .. } => RunResult::Usage,
        engine::Error::Cancelled(signal) => RunResult::Signal(*signal),
        error if error.is_damage() => RunResult::Damaged,
        // An archive that cannot be read is the target's fault only if the target hangs.
        engine::Error::Store(store::Error::Archive { .. } | store::Error::Image { .. }) if !error.is_target_stall() => {
            RunResult::Failed
        }
        engine::Error::Store(_)
        | engine::Error::Target { .. }
        | engine::Error::Space { .. }
        | engine::Error::Restic { .. }
        | engine::Error::NoCopy { .. }
        | engine::Error::RepositoryBusy { .. }
        | engine::Error::Unusable { .. } => RunResult::Target,
        _ => RunResult::Failed,
    }
}

/// Reads this host's settings. They name programs to run and files to write, so only a trusted user may change them.
pub fn settings(config: &Path, host: Option<&str>) -> Result<Settings, Error> {
    let host = host.map_or_else(host::short_name, str::to_owned);
    if let Err(refused @ Refused::Untrusted { .. }) = trust::input(config) {
        return Err(untrusted(config, format!("is not trusted: {refused}"), refused.hint()).into());
    }
    Ok(config::load(config, &host)?)
}

/// The settings for a run, which also rejects a mail program and a password file that another user could change.
pub fn settings_of_run(config: &Path, host: Option<&str>) -> Result<Settings, Error> {
    let settings = settings(config, host)?;
    let Some(error) = settings.mail.as_ref().and_then(|mail| crate::mail::untrusted(mail).into_iter().next()) else {
        return Ok(settings);
    };
    let mut errors = untrusted(config, format!("`mail`: {}", engine::chain(&error)), error.hint());
    let textfile = settings.metrics.textfile;
    errors.salvaged = config::Salvaged { state_dir: Some(settings.state_dir), textfile, mail: None };
    Err(errors.into())
}

fn untrusted(path: &Path, message: String, hint: Option<String>) -> config::Errors {
    config::Errors { hint: hint.map(Into::into), ..config::Errors::one(path, config::Problem::of_file(None, message)) }
}

/// Files and directories that this program trusts or writes: its own directories, its configuration, and the files
/// named there.
pub fn own_places(settings: &Settings, config: &Path) -> Vec<PathBuf> {
    let mut places = vec![settings.state_dir.clone(), config.to_owned()];
    places.extend(settings.stores().into_iter().filter_map(|kind| settings.dir_of(kind)).map(Path::to_owned));
    places.extend(settings.metrics.textfile.clone());
    if let Some(repository) = &settings.repository {
        places.push(repository.cache_dir.clone());
        places.extend(repository.password.path());
        places.extend(repository.secret_access_key.as_ref().and_then(Secret::path));
        places.extend(repository.ca_file.clone());
        places.extend(repository.copies.iter().filter_map(|copy| copy.password.path()));
        places.extend(repository.copies.iter().filter_map(|copy| copy.to.directory()));
    }
    if let Some(Listen::Unix(socket)) = &settings.metrics.listen {
        places.push(socket.clone());
    }
    let hooks = settings.rules.iter().flat_map(|rule| &rule.domain.hooks).chain(&settings.hooks);
    let on_this_host = hooks.filter(|hook| hook.place == HookPlace::Host);
    places.extend(on_this_host.filter_map(|hook| hook.command.first()).map(PathBuf::from));
    places.extend(settings.mail.iter().flat_map(Mail::files));
    places
}

/// Takes the lock of a state directory, which is created if it does not exist.
pub fn lock(state_dir: &Path) -> Result<Lock, Error> {
    take_lock(state_dir, "lock")
}

/// The same against another process that copies the repository. A run needs another lock.
pub fn lock_copies(state_dir: &Path) -> Result<Lock, Error> {
    take_lock(state_dir, "copy.lock")
}

fn take_lock(state_dir: &Path, name: &str) -> Result<Lock, Error> {
    let folder = step::reached(Step::StateFolder).and_then(|()| durable::create_private_dir(state_dir));
    folder.map_err(engine::Error::file("create the directory", state_dir))?;
    trusted_state(state_dir)?;
    let path = state_dir.join(name);
    step::reached(Step::RunLock).map_err(lock::Refused::Io).and_then(|()| lock::take(&path)).map_err(|refused| {
        match refused {
            lock::Refused::Held(holder) => Error::Locked { path, holder },
            lock::Refused::Io(source) => engine::Error::file("lock", &path)(source).into(),
        }
    })
}

/// Rejects a state directory that another user can change, because recovery removes files that the journal names, the
/// ledger names the textfile, and `mail.json` names a program.
fn trusted_state(state_dir: &Path) -> Result<(), Error> {
    let trusted = trust::folder(state_dir);
    Ok(trusted.map_err(|source| engine::Error::Untrusted { what: "the state directory", source })?)
}

/// Connects for recovery, which accepts any hypervisor.
pub fn connect(uri: &str) -> Result<Box<dyn Hypervisor>, hypervisor::Error> {
    Ok(Box::new(Libvirt::connect(uri)?))
}

/// Like [`connect`], but waits this long for libvirt to respond, for example at boot, or until a signal arrives.
pub fn connect_within(
    wait: Duration,
    cancel: &Cancel,
) -> impl Fn(&str) -> Result<Box<dyn Hypervisor>, hypervisor::Error> + '_ {
    let began = Instant::now();
    move |uri| {
        let mut told = false;
        loop {
            match connect(uri) {
                Err(error) if error.kind() == hypervisor::Kind::Unreachable && began.elapsed() < wait => {
                    if cancel.signal().is_some() {
                        return Err(error);
                    }
                    if !told {
                        tracing::warn!("{}; waiting up to {} s for it", engine::chain(&error), wait.as_secs());
                        told = true;
                    }
                    thread::sleep(CONNECT_AGAIN);
                }
                connected => return connected,
            }
        }
    }
}

pub fn libvirt(uri: &str) -> Result<Libvirt, Error> {
    Ok(Libvirt::connect(uri)?)
}
