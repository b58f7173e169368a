//! The state of one guest: its history, its age compared with its schedule, and its problems. It must not know how this is
//! displayed.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::Tone;
use super::trouble::Trouble;
use super::words::{ago, count, span};
use crate::ledger::standing::{Age, last_success};
use crate::ledger::{DomainRecord, DomainResult, Ledger, Seen, Survey};
use crate::model::Consistency;
use crate::model::command::quoted;

/// A guest.
pub(super) struct Guest<'a> {
    pub name: &'a str,
    /// The results of its backups; `None` if there was no attempt.
    pub past: Option<&'a DomainRecord>,
    /// What the survey found; `None` without a survey.
    pub seen: Option<&'a Seen>,
    pub age: Age,
    /// Its problems, worst first.
    pub troubles: Vec<Trouble>,
}

/// All guests, worst first: those of the survey, and those with an attempt since then.
pub(super) fn all<'a>(
    ledger: &'a Ledger,
    survey: Option<&'a Survey>,
    running: bool,
    now: DateTime<Utc>,
) -> Vec<Guest<'a>> {
    let seen = |name: &str| survey.and_then(|survey| survey.domains.get(name));
    let tried = ledger.domains.iter().filter(|(name, past)| {
        seen(name).is_some() || survey.is_none_or(|survey| past.last_attempt.is_some_and(|at| at > survey.time))
    });
    let surveyed = survey.into_iter().flat_map(|survey| survey.domains.keys());
    let names: BTreeSet<&'a String> = surveyed.chain(tried.map(|(name, _)| name)).collect();
    let is_saved = |name: &&String| last_success(ledger.domains.get(*name), seen(name)).is_some();
    let any_run = ledger.jobs.values().any(|job| job.last_start.is_some()) || names.iter().any(is_saved);
    let mut guests: Vec<_> = names
        .into_iter()
        .map(|name| {
            let (past, seen) = (ledger.domains.get(name), seen(name));
            let mut guest = Guest { name, past, seen, age: Age::of(past, seen, now), troubles: Vec::new() };
            guest.troubles = guest.find_troubles(running, any_run, now);
            guest
        })
        .collect();
    guests.sort_by_cached_key(|guest| (std::cmp::Reverse(guest.tone()), guest.name.to_lowercase()));
    guests
}

impl Guest<'_> {
    /// Whether an entry of the configuration covers it, as far as known.
    pub fn is_covered(&self) -> bool {
        self.seen.is_none_or(|seen| seen.job.is_some())
    }

    /// Whether the configuration excludes it.
    pub fn is_excluded(&self) -> bool {
        self.seen.is_some_and(|seen| seen.excluded)
    }

    /// Whether libvirt defines it and the configuration neither covers nor excludes it.
    pub fn is_unprotected(&self) -> bool {
        self.seen.is_some_and(Seen::is_unprotected)
    }

    /// Whether libvirt defines it, as far as known.
    pub fn is_defined(&self) -> bool {
        self.seen.is_none_or(|seen| seen.defined)
    }

    /// The time of its last complete backup.
    pub fn last_success(&self) -> Option<DateTime<Utc>> {
        last_success(self.past, self.seen)
    }

    /// Whether it has neither an attempt nor a backup.
    pub fn is_new(&self) -> bool {
        self.past.is_none_or(|past| past.last_attempt.is_none()) && self.last_success().is_none()
    }

    /// The worst tone of its problems.
    pub fn tone(&self) -> Tone {
        self.troubles.iter().map(|trouble| trouble.tone).max().unwrap_or(Tone::Good)
    }

    /// `(reached, wanted)` if the reached consistency is worse than the wanted one.
    pub fn degraded(&self) -> Option<(Consistency, Consistency)> {
        let past = self.past?;
        let (reached, wanted) = (past.consistency?, past.wanted?);
        (reached > wanted).then_some((reached, wanted))
    }

    fn find_troubles(&self, running: bool, any_run: bool, now: DateTime<Utc>) -> Vec<Trouble> {
        let mut found = Vec::new();
        let overlays = self.seen.map_or(0, |seen| seen.leftover_overlays);
        if overlays > 0 && !running {
            let what = format!("still uses {} of an interrupted backup", count(overlays, "overlay", "overlays"));
            let advice = "The guest works, but its disk grows in the overlay until the overlay is committed.";
            found.push(self.trouble(Tone::Bad, what).saying(advice).typing("kvmbackup recover".to_owned()));
        }
        let damaged = self.seen.map_or(&[][..], |seen| &seen.points.damaged);
        if let Some(first) = damaged.first() {
            let what = match damaged.len() {
                1 => format!("has a damaged restore point, {first}"),
                all => format!("has {all} damaged restore points, the oldest is {first}"),
            };
            let name = quoted(self.name);
            let trouble = self.trouble(Tone::Bad, what).saying("The first command shows what is damaged.");
            let trouble = trouble.typing(format!("kvmbackup verify {name} --at {first}"));
            found.push(trouble.typing(format!("kvmbackup list {name}")));
        }
        // Before the first run, no guest has a backup, and the headline says so once.
        if self.is_covered() && (any_run || !self.is_new()) {
            found.extend(self.backup_trouble(now));
            if let Some((reached, wanted)) = self.degraded() {
                let what =
                    format!("is only {}-consistent, not {}-consistent as configured", reached.name(), wanted.name());
                found.push(self.trouble(Tone::Note, what).typing("kvmbackup check".to_owned()));
            }
        }
        found
    }

    /// The worst problem of its last backup.
    fn backup_trouble(&self, now: DateTime<Utc>) -> Option<Trouble> {
        let again = format!("kvmbackup backup --force {}", quoted(self.name));
        let last = self.last_success().map(|last| format!("Last complete backup: {}.", ago(now, last)));
        let saved = last.unwrap_or_else(|| "It has no complete backup.".to_owned());
        match (self.past.and_then(|past| past.last_result), self.age) {
            (Some(DomainResult::Failure), _) => {
                let times = self.past.map_or(1, |past| past.consecutive_failures.max(1));
                let what = if times == 1 {
                    "has a failed backup".to_owned()
                } else {
                    format!("has {times} failed backups in a row")
                };
                let error = self.past.and_then(|past| past.last_error.clone());
                let trouble = self.trouble(Tone::Bad, what).quoting(error).saying(&saved);
                Some(trouble.typing("kvmbackup report".to_owned()).typing(again))
            }
            (_, Age::Never) => {
                let trouble = self.trouble(Tone::Bad, "was never backed up".to_owned());
                Some(trouble.typing("kvmbackup backup --dry-run".to_owned()).typing(again))
            }
            (_, Age::Late { age, interval }) => {
                let what = format!("is late: last backup {} ago, due every {}", span(age), span(interval));
                let advice = "Check that cron or the timer starts the runs. The first command shows which guests are due, and why.";
                let trouble = self.trouble(Tone::Bad, what).saying(advice);
                Some(trouble.typing("kvmbackup backup --dry-run".to_owned()).typing(again))
            }
            (Some(DomainResult::Warning), _) => {
                let trouble = self.trouble(Tone::Note, "was backed up with a warning".to_owned());
                Some(
                    trouble
                        .quoting(self.past.and_then(|past| past.last_warning.clone()))
                        .typing("kvmbackup report".to_owned()),
                )
            }
            (Some(DomainResult::Skipped), _) => {
                let trouble = self.trouble(Tone::Note, "was skipped by a hook last time".to_owned());
                Some(trouble.saying(&saved))
            }
            _ => None,
        }
    }

    fn trouble(&self, tone: Tone, what: String) -> Trouble {
        Trouble::of_guest(tone, self.name, what)
    }
}
