//! Checks in advance whether this host, its libvirt, its guests, the target and the hooks can do what the configuration
//! requires. Must not change anything on the host or leave anything in a guest.

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
    /// Nothing to do.
    Good,
    /// Backups work, but not as well as they could.
    Warning,
    /// A backup will fail, or its result will not be reported.
    Problem,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked, e.g. `domain web-1`.
    pub about: String,
    /// How much it matters.
    pub severity: Severity,
    /// Message and hint.
    #[serde(flatten)]
    pub failure: Failure,
}

impl Finding {
    /// Creates a finding from a message and an optional hint.
    pub fn new(
        about: impl Into<String>,
        severity: Severity,
        message: impl Into<String>,
        hint: Option<&str>,
    ) -> Finding {
        Finding::failed(about, severity, Failure { message: message.into(), hint: hint.map(str::to_owned) })
    }

    /// Creates a finding from a failure.
    pub fn failed(about: impl Into<String>, severity: Severity, failure: Failure) -> Finding {
        Finding { about: about.into(), severity, failure }
    }
}

/// Checks only the hooks on this host, so that a configuration can be checked without libvirt and the target.
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

/// Checks what does not need libvirt: programs, directories, leftovers of earlier runs, the target.
pub fn host(settings: &Settings, now: DateTime<Utc>) -> Vec<Finding> {
    let mut findings = place::look(settings);
    findings.extend(target::look(settings, now));
    findings
}

/// Checks libvirt, and the disks and guest agents of the domains that the configuration covers.
pub fn guests(settings: &Settings, hypervisor: &dyn Hypervisor) -> Result<Vec<Finding>, Error> {
    let mut findings = vec![match hypervisor.version() {
        Ok(version) => Finding::new("libvirt", Severity::Good, version, None),
        Err(error) => Finding::new("libvirt", Severity::Warning, chain(&error), None),
    }];
    let states: BTreeMap<_, _> =
        hypervisor.domains()?.into_iter().map(|(domain, state)| (domain.uuid, (domain.name, state))).collect();
    // `ask` has a timeout; `device` would block on a hung target.
    let device = |kind| survey::target::ask(settings, kind).ok().and_then(|_| target::device(settings, kind));
    let mut targets: Vec<_> =
        settings.stores().into_iter().filter_map(|kind| Some((kind, device(kind)?, Vec::new()))).collect();
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
        for (_, device, beside) in &mut targets {
            if disks::lies_on(hypervisor, &domain, *device) {
                beside.push(domain.name.clone());
            }
        }
        place::overlays(settings, hypervisor, &domain, &mut findings);
        // Includes domains that are not due today.
        disks::look(hypervisor, &domain, (&of_domain, of_domain.store.first().usual_method()), &mut findings);
        if states.get(&domain.uuid).is_some_and(|(_, state)| *state == DomainState::Running) {
            agent::look(&GuestAgent { hypervisor, domain: &domain }, &domain, &of_domain, &mut findings);
        }
    }
    findings.extend(targets.into_iter().filter_map(|(kind, _, beside)| target::shared(settings, kind, &beside)));
    Ok(findings)
}
