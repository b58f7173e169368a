//! Owns: what an operator can know before the night: whether this host, its libvirt, its guests, the target and the hooks will do
//! what the configuration asks of them. Must not: change anything on the host, or leave anything in a guest.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::phases::GuestAgent;
use super::{Error, chain, run, survey};
use crate::config::{Hook, HookPlace, Settings};
use crate::hooks;
use crate::hypervisor::Hypervisor;
use crate::model::{DomainState, Failure};
use crate::plan::{Decision, Selection};

mod agent;
mod confined;
mod disks;
mod place;
mod target;
#[cfg(test)]
mod tests;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Good,
    /// It will work, but not as well as it could.
    Warning,
    /// A backup will fail, or nobody will be told of it.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub about: String,
    /// How it is.
    pub severity: Severity,
    /// In words, and what to do.
    #[serde(flatten)]
    pub failure: Failure,
}

impl Finding {
    /// What was found, in words, and what to type next.
    pub fn new(
        about: impl Into<String>,
        severity: Severity,
        message: impl Into<String>,
        hint: Option<&str>,
    ) -> Finding {
        Finding::failed(about, severity, Failure { message: message.into(), hint: hint.map(str::to_owned) })
    }

    /// The same of what failed.
    pub fn failed(about: impl Into<String>, severity: Severity, failure: Failure) -> Finding {
        Finding { about: about.into(), severity, failure }
    }
}

/// Looks at the hooks of this host alone, so that a configuration can be checked where nothing else is.
pub fn offline(settings: &Settings) -> Vec<Finding> {
    let of_domains = settings.rules.iter().flat_map(|rule| &rule.domain.hooks);
    let on_host = settings.hooks.iter().chain(of_domains).filter(|hook| hook.place == HookPlace::Host);
    let programs: BTreeMap<&str, &Hook> =
        on_host.filter_map(|hook| hook.command.first().map(|program| (program.as_str(), hook))).collect();
    let finding = |(program, hook): (&str, &Hook)| {
        let about = format!("hook {}", hook.name);
        match hooks::check_file(Path::new(program)) {
            Ok(()) => Finding::new(about, Severity::Good, format!("{program} is executable"), None),
            Err(error) => Finding::new(about, Severity::Problem, chain(&error), error.hint().as_deref()),
        }
    };
    programs.into_iter().map(finding).collect()
}

/// Looks at this host, as far as libvirt is not needed for it: programs, folders, what an earlier run left, the target.
pub fn host(settings: &Settings, now: DateTime<Utc>) -> Vec<Finding> {
    let mut findings = place::look(settings);
    findings.extend(target::look(settings, now));
    findings
}

/// Looks at libvirt and at the domains that the configuration covers: what each one's disks and agent would do today.
pub fn guests(settings: &Settings, hypervisor: &dyn Hypervisor) -> Result<Vec<Finding>, Error> {
    let mut findings = vec![match hypervisor.version() {
        Ok(version) => Finding::new("libvirt", Severity::Good, version, None),
        Err(error) => Finding::new("libvirt", Severity::Warning, chain(&error), None),
    }];
    let states: BTreeMap<_, _> =
        hypervisor.domains()?.into_iter().map(|(domain, state)| (domain.uuid, (domain.name, state))).collect();
    // Whoever asks a target that hangs would hang.
    let target = survey::target::ask(settings).ok().and_then(|_| target::device(settings));
    let mut beside = Vec::new();
    for exclusion in &settings.excluded {
        let is_excluded = |name: &&str| settings.exclusion_of(name) == Some(exclusion);
        let names: Vec<_> = states.values().map(|(name, _)| name.as_str()).filter(is_excluded).collect();
        let message = match names.as_slice() {
            [] => "excludes no existing domain".to_owned(),
            names => format!("excluded from backup: {}", names.join(", ")),
        };
        findings.push(Finding::new(format!("domains `{}`", exclusion.pattern), Severity::Good, message, None));
    }
    for entry in run::plan(settings, hypervisor, &Selection::default())?.entries {
        if let Decision::Unknown(failure) = entry.decision {
            findings.push(Finding::failed(format!("domain {}", entry.name), Severity::Problem, failure));
            continue;
        }
        let (Some(domain), Some(of_domain)) = (entry.domain, entry.settings) else { continue };
        if target.is_some_and(|target| disks::lies_on(hypervisor, &domain, target)) {
            beside.push(domain.name.clone());
        }
        place::overlays(settings, hypervisor, &domain, &mut findings);
        // One that is not due today is, another day.
        disks::look(hypervisor, &domain, &of_domain, &mut findings);
        if states.get(&domain.uuid).is_some_and(|(_, state)| *state == DomainState::Running) {
            agent::look(&GuestAgent { hypervisor, domain: &domain }, &domain, &of_domain, &mut findings);
        }
    }
    findings.extend(target::shared(settings, &beside));
    Ok(findings)
}
