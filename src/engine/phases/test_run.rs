//! Runs hooks without a backup, so that an operator sees what they do. Must not touch a disk.

use uuid::Uuid;

use super::{Error, GuestAgent, Phases, Subject};
use crate::config::{Hook, HookKind, Settings};
use crate::hypervisor::Hypervisor;
use crate::model::{DomainRef, HookResult, Phase, Span};
use crate::sys::signals::Cancel;

/// The result of a test of hooks.
pub struct Tested {
    /// Results in the order in which the hooks ended.
    pub results: Vec<HookResult>,
    /// Artifacts: the hook, the file and its contents.
    pub artifacts: Vec<(String, String, Vec<u8>)>,
    /// The error that would have failed the domain.
    pub failed: Option<Error>,
}

/// Runs the commands of one phase. Without a phase, runs all hooks around a snapshot, but takes none.
pub fn test(
    settings: &Settings,
    hooks: &[Hook],
    (hypervisor, domain): (&dyn Hypervisor, &str),
    phase: Option<Phase>,
    cancel: &Cancel,
) -> Result<Tested, Error> {
    let known = hypervisor.domains()?.into_iter().map(|(id, _)| id).find(|id| id.name == domain);
    let id: DomainRef = known.ok_or_else(|| Error::Rejected {
        message: format!("domain `{domain}` does not exist"),
        hint: Some("To list the domains: virsh list --all".into()),
    })?;
    let agent = GuestAgent { hypervisor, domain: &id };
    let Settings { host, state_dir, .. } = settings;
    let store = settings.rule_for(domain).map(|rule| rule.domain.store.first());
    let target = store.map_or(settings.target(), |store| settings.path_of(store));
    let subject = Subject { run_id: Uuid::new_v4(), host, domain: Some(&id), target, state_dir };
    let mut phases = Phases::new(hooks, subject, Some(&agent), cancel);
    let done = match phase {
        None => phases.enter(Span::Snapshot).and_then(|()| phases.leave(Span::Snapshot, None)),
        Some(phase) => only(&mut phases, phase),
    };
    let artifacts = phases.artifacts();
    let (results, _) = phases.finish();
    let (artifacts, failed) = match (artifacts, done) {
        (Ok(artifacts), done) => (artifacts, done.err()),
        (Err(error), done) => (Vec::new(), done.err().or(Some(error))),
    };
    Ok(Tested { results, artifacts, failed })
}

fn only(phases: &mut Phases<'_>, phase: Phase) -> Result<(), Error> {
    for hook in phases.hooks.clone() {
        if let HookKind::Command { timeout, .. } = hook.kind
            && hook.runs_in(phase)
        {
            phases.command(hook, phase, timeout, None)?;
        }
    }
    Ok(())
}
