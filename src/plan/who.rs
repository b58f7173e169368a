//! Owns: which domains a run backs up, with a reason for each domain and each name. Must not: look at disks, or act.

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};

use chrono::{NaiveDate, NaiveDateTime};

use super::day;
use crate::config::{DomainSettings, Exclusion, Rule, Settings, glob, nearest};
use crate::model::{DomainRef, DomainState, Failure};

/// A domain that libvirt knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDomain {
    pub id: DomainRef,
    pub state: DomainState,
    /// The time, in the host's time zone, of its newest restore point.
    pub last_point: Option<NaiveDateTime>,
}

/// What the command line selects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Back up domains even if they are not due.
    pub force: bool,
    /// Take disks that are much smaller than before, or hold much less, as they are.
    pub accept_smaller: bool,
    /// Names or globs of domains; empty means all. Whether a selected domain is due is still decided by its days.
    pub domains: Vec<String>,
}

/// What a run does with every domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// First the names of the command line that match nothing, then the entries of the file in their order, then the domains that
    /// no entry covers.
    pub entries: Vec<PlanEntry>,
}

/// What a run does with one domain, or with a name that matches no domain.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanEntry {
    /// The domain's name, or the name or glob that matches no domain.
    pub name: String,
    /// The domain, if libvirt knows one.
    pub domain: Option<DomainRef>,
    /// How it is backed up, if an entry of the file covers it.
    pub settings: Option<DomainSettings>,
    /// Whether it is backed up, and why.
    pub decision: Decision,
    pub last_point: Option<NaiveDateTime>,
}

impl Plan {
    /// The due domains in the order of their backups: by `priority`, then by the age of the newest restore point, oldest first, so
    /// that runs that are always interrupted do not miss the same domains every time.
    pub fn queue(&self) -> VecDeque<(DomainRef, DomainSettings)> {
        let due = self.entries.iter().filter(|entry| matches!(entry.decision, Decision::Due(_)));
        let mut due: Vec<_> =
            due.filter_map(|entry| Some((entry.last_point, entry.domain.clone()?, entry.settings.clone()?))).collect();
        due.sort_by_key(|(last, _, settings)| (Reverse(settings.priority), *last));
        due.into_iter().map(|(_, domain, settings)| (domain, settings)).collect()
    }
}

/// Whether a domain is backed up; each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Due(String),
    NotDue(String),
    /// Not selected by the file, or not by the command line.
    NotSelected(String),
    /// The file or the command line names it, but it cannot be backed up: an error of the run.
    Unknown(Failure),
}

/// Decides for every known domain, every entry of the file and every selected name.
pub fn plan(settings: &Settings, known: &[KnownDomain], selection: &Selection, today: NaiveDate) -> Plan {
    let mut entries = unmatched(settings, known, &selection.domains);
    let mut governed: Vec<_> = known.iter().map(|domain| (domain, settings.rule_for(&domain.id.name))).collect();
    governed.sort_by(|(a, _), (b, _)| a.id.name.cmp(&b.id.name));

    for rule in &settings.rules {
        let of_rule = |other: &Option<&Rule>| other.is_some_and(|other| std::ptr::eq(other, rule));
        for (domain, _) in governed.iter().filter(|(_, other)| of_rule(other)) {
            entries.push(entry(domain, rule, selection, today));
        }
        // A glob also counts as matched if all of its domains have entries of their own.
        if !known.iter().any(|domain| is_match(&rule.pattern, &domain.id.name)) {
            entries.push(no_domain(rule, known, selection));
        }
    }
    for (domain, _) in governed.iter().filter(|(_, rule)| rule.is_none()) {
        let name = &domain.id.name;
        // A domain that the command line names exactly is an error, and already listed.
        if !selection.domains.contains(name) {
            let decision = Decision::NotSelected(match settings.exclusion_of(name) {
                Some(exclusion) => excluded_by(exclusion),
                None => "not in the configuration".to_owned(),
            });
            let domain_ref = Some(domain.id.clone());
            entries.push(PlanEntry {
                name: name.clone(),
                domain: domain_ref,
                settings: None,
                decision,
                last_point: None,
            });
        }
    }
    Plan { entries }
}

fn entry(domain: &KnownDomain, rule: &Rule, selection: &Selection, today: NaiveDate) -> PlanEntry {
    let decision = if !asked_for(selection, &domain.id.name) {
        Decision::NotSelected("not named on the command line".to_owned())
    } else {
        match day::judge(&rule.domain, domain.last_point.map(|last| last.date()), today) {
            Ok(reason) => Decision::Due(reason),
            Err(_) if selection.force => Decision::Due("forced".to_owned()),
            Err(reason) => Decision::NotDue(reason),
        }
    };
    PlanEntry {
        name: domain.id.name.clone(),
        domain: Some(domain.id.clone()),
        settings: Some(rule.domain.clone()),
        decision,
        last_point: domain.last_point,
    }
}

/// An entry of the file that matches no domain.
fn no_domain(rule: &Rule, known: &[KnownDomain], selection: &Selection) -> PlanEntry {
    let wanted = selection.domains.is_empty() || selection.domains.iter().any(|name| is_match(name, &rule.pattern));
    let decision = if wanted {
        let place = format!("line {} of the configuration", rule.line);
        Decision::Unknown(unknown(&rule.pattern, &place, known))
    } else {
        Decision::NotSelected("not named on the command line".to_owned())
    };
    let settings = Some(rule.domain.clone());
    PlanEntry { name: rule.pattern.clone(), domain: None, settings, decision, last_point: None }
}

/// The names of the command line that match no domain that can be backed up, each once.
fn unmatched(settings: &Settings, known: &[KnownDomain], names: &[String]) -> Vec<PlanEntry> {
    let mut seen = HashSet::new();
    let names = names.iter().filter(|name| seen.insert(name.as_str()));
    let judge = |name: &String| {
        let domain = known.iter().find(|domain| domain.id.name == *name);
        let mut matching = known.iter().map(|domain| domain.id.name.as_str()).filter(|domain| is_match(name, domain));
        let failure = if matching.clone().next().is_none() {
            // The entries of the file that this name selects report it themselves.
            if settings.rules.iter().any(|rule| is_match(name, &rule.pattern)) {
                return None;
            }
            unknown(name, "the command line", known)
        } else if let Some(exclusion) = domain.and_then(|domain| settings.exclusion_of(&domain.id.name)) {
            Failure {
                message: format!("`{name}` is named on the command line, but {}", excluded_by(exclusion)),
                hint: Some(format!("Add an entry for `{name}` under `domains` of the host `{}`", settings.host)),
            }
        } else if matching.all(|domain| settings.rule_for(domain).is_none()) {
            Failure {
                message: format!("`{name}` is named on the command line but not in the configuration"),
                hint: Some(format!("Add an entry to `domains` of the host `{}`", settings.host)),
            }
        } else {
            return None;
        };
        let domain = domain.map(|domain| domain.id.clone());
        let decision = Decision::Unknown(failure);
        Some(PlanEntry { name: name.clone(), domain, settings: None, decision, last_point: None })
    };
    names.filter_map(judge).collect()
}

fn unknown(name: &str, place: &str, known: &[KnownDomain]) -> Failure {
    let names = || known.iter().map(|domain| domain.id.name.as_str());
    let message = if glob::is_glob(name) {
        format!("no existing domain matches `{name}` ({place})")
    } else {
        format!("domain `{name}` ({place}) does not exist")
    };
    let hint = match nearest(name, names()) {
        Some(near) => format!("Did you mean `{near}`?"),
        None if known.is_empty() => "No domain exists. Check `libvirt_uri`.".to_owned(),
        None => "To list the domains: virsh list --all".to_owned(),
    };
    Failure { message, hint: Some(hint) }
}

fn excluded_by(exclusion: &Exclusion) -> String {
    format!("excluded by `{}`, line {} of the configuration", exclusion.pattern, exclusion.line)
}

fn asked_for(selection: &Selection, name: &str) -> bool {
    selection.domains.is_empty() || selection.domains.iter().any(|asked| is_match(asked, name))
}

/// Whether a domain's name matches a name or glob.
fn is_match(pattern: &str, name: &str) -> bool {
    pattern == name || glob::matches(pattern, name)
}

#[cfg(test)]
mod tests;
