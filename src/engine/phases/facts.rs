//! Prepares what hooks receive: environment, context file, and directory for artifacts. Must not run them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::config::Hook;
use crate::engine::Error;
use crate::hooks::Call;
use crate::model::{DomainRef, Failure, printable};
use crate::sys::step::{self, Step};
use crate::sys::{durable, program};

/// The run or domain that hooks are called for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub run_id: Uuid,
    /// Name of the host section in the configuration.
    pub host: &'a str,
    /// `None` for the hooks of the run.
    pub domain: Option<&'a DomainRef>,
    /// Path or URL of the store.
    pub target: &'a Path,
    /// The private directory is created below this one.
    pub state_dir: &'a Path,
}

/// One call of one hook.
pub struct Moment<'a> {
    pub hook: &'a Hook,
    /// Name of the phase or span.
    pub phase: &'static str,
    /// Timeout of a command, or how long a session is held at most.
    pub timeout: Duration,
    /// Whether it runs before its subject's work.
    pub before: bool,
    /// Why the work failed, if it did.
    pub failed: Option<&'a Failure>,
}

/// What hooks receive, and the directory for it.
pub struct Facts<'a> {
    subject: Subject<'a>,
    /// The report so far.
    pub context: Value,
    /// Whether a hook asked to skip the domain.
    pub skipped: bool,
    /// How the domain is captured. Empty until that is decided.
    pub method: &'static str,
    folder: PathBuf,
    /// Hooks on this host with a directory for artifacts.
    artifacts: Vec<String>,
}

impl<'a> Facts<'a> {
    pub fn new(subject: Subject<'a>) -> Facts<'a> {
        let of = subject.domain.map_or("run".to_owned(), |domain| domain.uuid.simple().to_string());
        let folder = subject.state_dir.join("hooks").join(format!("{}-{of}", subject.run_id.simple()));
        Facts { subject, context: Value::Null, skipped: false, method: "", folder, artifacts: Vec::new() }
    }

    /// Makes the names of our files in guests unique.
    pub fn token(&self) -> String {
        self.subject.run_id.simple().to_string()
    }

    /// The command with its environment. `guest` has the paths of the context and the artifacts in the guest.
    pub fn call(&mut self, moment: &Moment<'_>, guest: Option<(&str, &str)>) -> Result<Call, Error> {
        let (context, artifacts) = match guest {
            Some((context, artifacts)) => (context.to_owned(), artifacts.to_owned()),
            None => self.write(moment)?,
        };
        let mut env = self.env(moment);
        env.insert("KVMBACKUP_CONTEXT".into(), context);
        env.insert("KVMBACKUP_ARTIFACT_DIR".into(), artifacts);
        Ok(Call { argv: moment.hook.command.clone(), env })
    }

    fn env(&self, moment: &Moment<'_>) -> BTreeMap<String, String> {
        let Subject { run_id, domain, target, .. } = self.subject;
        let status = match (moment.before, moment.failed) {
            (true, _) => "running",
            (false, None) if self.skipped => "skipped",
            (false, None) => "ok",
            (false, Some(_)) => "failed",
        };
        let contract = [
            ("KVMBACKUP_API", "1".to_owned()),
            ("KVMBACKUP_PHASE", moment.phase.to_owned()),
            ("KVMBACKUP_RUN_ID", run_id.to_string()),
            ("KVMBACKUP_DOMAIN", domain.map_or(String::new(), |domain| domain.name.clone())),
            ("KVMBACKUP_DOMAIN_UUID", domain.map_or(String::new(), |domain| domain.uuid.to_string())),
            ("KVMBACKUP_METHOD", self.method.to_owned()),
            ("KVMBACKUP_STATUS", status.to_owned()),
            ("KVMBACKUP_ERROR", moment.failed.map_or(String::new(), |failure| printable(&failure.message))),
            ("KVMBACKUP_DRY_RUN", "0".to_owned()),
            ("KVMBACKUP_TIMEOUT", moment.timeout.as_secs().to_string()),
            ("KVMBACKUP_TARGET", target.to_string_lossy().into_owned()),
            ("PATH", program::PATH.to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("HOME", std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned())),
        ];
        let mut env: BTreeMap<String, String> =
            contract.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        env.extend(moment.hook.env.clone());
        env
    }

    /// Contents of the context file.
    pub fn context_bytes(&self, moment: &Moment<'_>) -> Vec<u8> {
        let Subject { run_id, host, domain, target, .. } = self.subject;
        let context = serde_json::json!({
            "schema": 1,
            "run_id": run_id,
            "host": host,
            "domain": domain,
            "backupdir": target,
            "phase": moment.phase,
            "hook": moment.hook.name,
            "report": self.context,
        });
        format!("{context:#}\n").into_bytes()
    }

    /// Writes the context file, creates the hook's directory, and returns both paths.
    fn write(&mut self, moment: &Moment<'_>) -> Result<(String, String), Error> {
        let name = &moment.hook.name;
        let artifacts = self.folder.join("artifacts").join(name);
        let made = step::reached(Step::HookFiles).and_then(|()| durable::create_private_dir(&artifacts));
        made.map_err(Error::file("create the directory", &artifacts))?;
        if !self.artifacts.contains(name) {
            self.artifacts.push(name.clone());
        }
        let context = self.folder.join("context.json");
        let bytes = self.context_bytes(moment);
        let written = step::reached(Step::HookFiles)
            .and_then(|()| durable::remove(&context))
            .and_then(|()| std::io::Write::write_all(&mut durable::create_private(&context)?, &bytes));
        written.map_err(Error::file("write", &context))?;
        Ok((context.to_string_lossy().into_owned(), artifacts.to_string_lossy().into_owned()))
    }

    /// Directory for the artifacts of a hook on this host, if it has one.
    pub fn artifact_folder(&self, hook: &str) -> Option<PathBuf> {
        self.artifacts.iter().any(|name| name == hook).then(|| self.folder.join("artifacts").join(hook))
    }

    /// Removes the private directory.
    pub fn clean(&self) {
        if let Err(error) = step::reached(Step::HookFilesRemove).and_then(|()| fs::remove_dir_all(&self.folder))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.folder.display(), %error, "cannot remove the directory");
        }
    }
}
