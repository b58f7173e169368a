//! Owns: how one guest stands: what is known of it, its age against its schedule, what is wrong with it.
//! Must not: know how it looks.

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
    /// What its backups came to; `None` if it was never tried.
    pub past: Option<&'a DomainRecord>,
    /// How it was found; `None` if nobody has looked yet.
    pub seen: Option<&'a Seen>,
    pub age: Age,
    /// What is wrong with it, worst first.
    pub troubles: Vec<Trouble>,
}

/// All guests, worst first: those of the survey, and those that were tried since.
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
    /// Some entry of the configuration covers it, as far as is known.
    pub fn is_covered(&self) -> bool {
        self.seen.is_none_or(|seen| seen.job.is_some())
    }

    /// The configuration says that it is not backed up.
    pub fn is_excluded(&self) -> bool {
        self.seen.is_some_and(|seen| seen.excluded)
    }

    /// libvirt has it, and the configuration does not say what is to become of it.
    pub fn is_unprotected(&self) -> bool {
        self.seen.is_some_and(Seen::is_unprotected)
    }

    /// libvirt has it, as far as is known.
    pub fn is_defined(&self) -> bool {
        self.seen.is_none_or(|seen| seen.defined)
    }

    /// When it was last saved whole.
    pub fn last_success(&self) -> Option<DateTime<Utc>> {
        last_success(self.past, self.seen)
    }

    /// It was never tried and never saved.
    pub fn is_new(&self) -> bool {
        self.past.is_none_or(|past| past.last_attempt.is_none()) && self.last_success().is_none()
    }

    /// How it stands.
    pub fn tone(&self) -> Tone {
        self.troubles.iter().map(|trouble| trouble.tone).max().unwrap_or(Tone::Good)
    }

    /// What was wanted and not reached: `(reached, wanted)`.
    pub fn degraded(&self) -> Option<(Consistency, Consistency)> {
        let past = self.past?;
        let (reached, wanted) = (past.consistency?, past.wanted?);
        (reached > wanted).then_some((reached, wanted))
    }

    fn find_troubles(&self, running: bool, any_run: bool, now: DateTime<Utc>) -> Vec<Trouble> {
        let mut found = Vec::new();
        let overlays = self.seen.map_or(0, |seen| seen.leftover_overlays);
        if overlays > 0 && !running {
            let what = format!("lives on {} of an interrupted backup", count(overlays, "overlay", "overlays"));
            let advice = "The guest works, and its disk grows in the overlay until that is committed back.";
            found.push(self.trouble(Tone::Bad, what).saying(advice).typing("kvmbackup recover".to_owned()));
        }
        let damaged = self.seen.map_or(&[][..], |seen| &seen.points.damaged);
        if let Some(first) = damaged.first() {
            let what = match damaged.len() {
                1 => format!("has a damaged restore point, {first}"),
                all => format!("has {all} damaged restore points, the oldest is {first}"),
            };
            let name = quoted(self.name);
            let trouble = self.trouble(Tone::Bad, what).saying("The first command says what is wrong with it.");
            let trouble = trouble.typing(format!("kvmbackup verify {name} --at {first}"));
            found.push(trouble.typing(format!("kvmbackup list {name}")));
        }
        // Before the first run, none has been saved, and the headline says so once.
        if self.is_covered() && (any_run || !self.is_new()) {
            found.extend(self.backup_trouble(now));
            if let Some((reached, wanted)) = self.degraded() {
                let what = format!("is only {}-consistent, {} was wanted", reached.name(), wanted.name());
                found.push(self.trouble(Tone::Note, what).typing("kvmbackup check".to_owned()));
            }
        }
        found
    }

    /// What is wrong with its last backup; the worst of it says enough.
    fn backup_trouble(&self, now: DateTime<Utc>) -> Option<Trouble> {
        let again = format!("kvmbackup backup --force {}", quoted(self.name));
        let last = self.last_success().map(|last| format!("Last saved {}.", ago(now, last)));
        let saved = last.unwrap_or_else(|| "It was never saved.".to_owned());
        match (self.past.and_then(|past| past.last_result), self.age) {
            (Some(DomainResult::Failure), _) => {
                let times = self.past.map_or(1, |past| past.consecutive_failures.max(1));
                let what = if times == 1 {
                    "was not saved".to_owned()
                } else {
                    format!("was not saved, {times} times in a row")
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
                let what = format!("is late: saved {} ago, due every {}", span(age), span(interval));
                let advice = "Does cron, or the timer, start the runs? The first command says who is due, and why.";
                let trouble = self.trouble(Tone::Bad, what).saying(advice);
                Some(trouble.typing("kvmbackup backup --dry-run".to_owned()).typing(again))
            }
            (Some(DomainResult::Warning), _) => {
                let trouble = self.trouble(Tone::Note, "was saved with a warning".to_owned());
                Some(
                    trouble
                        .quoting(self.past.and_then(|past| past.last_warning.clone()))
                        .typing("kvmbackup report".to_owned()),
                )
            }
            (Some(DomainResult::Skipped), _) => {
                let trouble = self.trouble(Tone::Note, "was left out last time, as a hook asked".to_owned());
                Some(trouble.saying(&saved))
            }
            _ => None,
        }
    }

    fn trouble(&self, tone: Tone, what: String) -> Trouble {
        Trouble::of_guest(tone, self.name, what)
    }
}
