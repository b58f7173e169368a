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
    /// Its name and identity.
    pub id: DomainRef,
    /// What it is doing.
    pub state: DomainState,
    /// The time, in the host's time zone, of its newest restore point.
    pub last_point: Option<NaiveDateTime>,
}

/// What the command line asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Back up domains even if they are not due.
    pub force: bool,
    /// Take disks that are much smaller than before, or hold much less, as they are.
    pub accept_smaller: bool,
    /// Names or globs of the domains to look at; empty means all. It only filters: the day rule holds.
    pub domains: Vec<String>,
}

/// What a run does with every domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// First the names of the command line that nothing answers to, then the entries of the file in their order, then the
    /// domains that no entry covers.
    pub entries: Vec<Entry>,
}

/// What a run does with one domain, or with a name that no domain has.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The domain's name, or the name or glob that no domain answers to.
    pub name: String,
    /// The domain, if libvirt knows one.
    pub domain: Option<DomainRef>,
    /// How it is backed up, if an entry of the file covers it.
    pub settings: Option<DomainSettings>,
    /// Whether it is backed up, and why.
    pub decision: Decision,
    /// As of [`KnownDomain`].
    pub last_point: Option<NaiveDateTime>,
}

impl Plan {
    /// The due domains in the order in which they are backed up: by `priority`, then by the age of the newest restore point,
    /// oldest first. So a run that is always interrupted does not skip the same domains every time.
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
    /// It is.
    Due(String),
    /// Another day.
    NotDue(String),
    /// Neither the file nor the command line wants it.
    NotSelected(String),
    /// Somebody named it and it cannot be backed up: an error of the run.
    Unknown(Failure),
}

/// Decides for every known domain, every entry of the file and every name of the request.
pub fn plan(settings: &Settings, known: &[KnownDomain], request: &Selection, today: NaiveDate) -> Plan {
    let mut entries = unanswered(settings, known, &request.domains);
    let mut governed: Vec<_> = known.iter().map(|domain| (domain, settings.rule_for(&domain.id.name))).collect();
    governed.sort_by(|(a, _), (b, _)| a.id.name.cmp(&b.id.name));

    for rule in &settings.rules {
        let of_rule = |other: &Option<&Rule>| other.is_some_and(|other| std::ptr::eq(other, rule));
        for (domain, _) in governed.iter().filter(|(_, other)| of_rule(other)) {
            entries.push(entry(domain, rule, request, today));
        }
        // A glob whose domains all have entries of their own has answered, too.
        if !known.iter().any(|domain| answers(&rule.pattern, &domain.id.name)) {
            entries.push(no_domain(rule, known, request));
        }
    }
    for (domain, _) in governed.iter().filter(|(_, rule)| rule.is_none()) {
        let name = &domain.id.name;
        // One that the command line names exactly is an error, and listed already.
        if !request.domains.contains(name) {
            let decision = Decision::NotSelected(match settings.exclusion_of(name) {
                Some(exclusion) => excluded_by(exclusion),
                None => "not in the configuration".to_owned(),
            });
            let domain_ref = Some(domain.id.clone());
            entries.push(Entry { name: name.clone(), domain: domain_ref, settings: None, decision, last_point: None });
        }
    }
    Plan { entries }
}

fn entry(domain: &KnownDomain, rule: &Rule, request: &Selection, today: NaiveDate) -> Entry {
    let decision = if !asked_for(request, &domain.id.name) {
        Decision::NotSelected("not named on the command line".to_owned())
    } else {
        match day::judge(&rule.domain, domain.last_point.map(|last| last.date()), today) {
            Ok(reason) => Decision::Due(reason),
            Err(_) if request.force => Decision::Due("forced".to_owned()),
            Err(reason) => Decision::NotDue(reason),
        }
    };
    Entry {
        name: domain.id.name.clone(),
        domain: Some(domain.id.clone()),
        settings: Some(rule.domain.clone()),
        decision,
        last_point: domain.last_point,
    }
}

/// An entry of the file that no domain answers to.
fn no_domain(rule: &Rule, known: &[KnownDomain], request: &Selection) -> Entry {
    let wanted = request.domains.is_empty() || request.domains.iter().any(|name| answers(name, &rule.pattern));
    let decision = if wanted {
        let place = format!("line {} of the configuration", rule.line);
        Decision::Unknown(unknown(&rule.pattern, &place, known))
    } else {
        Decision::NotSelected("not named on the command line".to_owned())
    };
    let settings = Some(rule.domain.clone());
    Entry { name: rule.pattern.clone(), domain: None, settings, decision, last_point: None }
}

/// The names of the command line that lead to no domain that could be backed up, each once.
fn unanswered(settings: &Settings, known: &[KnownDomain], names: &[String]) -> Vec<Entry> {
    let mut seen = HashSet::new();
    let names = names.iter().filter(|name| seen.insert(name.as_str()));
    let judge = |name: &String| {
        let domain = known.iter().find(|domain| domain.id.name == *name);
        let mut matching = known.iter().map(|domain| domain.id.name.as_str()).filter(|domain| answers(name, domain));
        let failure = if matching.clone().next().is_none() {
            // Entries of the file that this name leads to say it themselves.
            if settings.rules.iter().any(|rule| answers(name, &rule.pattern)) {
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
        Some(Entry { name: name.clone(), domain, settings: None, decision, last_point: None })
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

fn asked_for(request: &Selection, name: &str) -> bool {
    request.domains.is_empty() || request.domains.iter().any(|asked| answers(asked, name))
}

/// Whether a domain's name answers to a name or glob.
fn answers(pattern: &str, name: &str) -> bool {
    pattern == name || glob::matches(pattern, name)
}

#[cfg(test)]
mod tests;
