//! Problems of guests and of the host, worst first, each with its error and the command to run. It must not decide the state
//! of a guest.

use chrono::TimeDelta;
use serde::Serialize;

use super::words::{ago, shortened, span};
use super::{Tone, View};
use crate::ledger::SeenRepository;
use crate::model::command::{quoted, typed};
use crate::model::{BucketUrl, size};

/// A problem that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Trouble {
    pub tone: Tone,
    /// The guest, or `None` for the host.
    pub guest: Option<String>,
    /// A sentence; for a guest, without its subject.
    pub what: String,
    error: Option<String>,
    advice: String,
    commands: Vec<String>,
}

impl Trouble {
    pub fn of_guest(tone: Tone, guest: &str, what: String) -> Trouble {
        Trouble { guest: Some(guest.to_owned()), ..Trouble::of_host(tone, what) }
    }

    pub fn of_host(tone: Tone, what: String) -> Trouble {
        Trouble { tone, guest: None, what, error: None, advice: String::new(), commands: Vec::new() }
    }

    pub fn quoting(self, error: Option<String>) -> Trouble {
        Trouble { error: error.as_deref().map(shortened), ..self }
    }

    pub fn saying(self, advice: &str) -> Trouble {
        Trouble { advice: advice.to_owned(), ..self }
    }

    pub fn typing(mut self, command: String) -> Trouble {
        self.commands.push(typed(&command));
        self
    }
}

/// All problems, critical ones first. Those of the host come before those of guests, because they may be the cause.
pub(super) fn all(view: &View<'_>) -> Vec<Trouble> {
    let mut all = of_host(view);
    all.extend(view.guests.iter().flat_map(|guest| guest.troubles.iter().cloned()));
    all.sort_by_key(|trouble| std::cmp::Reverse(trouble.tone));
    all
}

fn of_host(view: &View<'_>) -> Vec<Trouble> {
    let mut found = Vec::new();
    let is_fresh = view.survey.is_none() && view.ledger.jobs.is_empty() && view.ledger.domains.is_empty();
    if !view.ledger.config_ok && !is_fresh {
        let trouble = Trouble::of_host(Tone::Bad, "The configuration cannot be read".to_owned());
        let advice = "No run can start. This page uses the last valid configuration.";
        found.push(trouble.saying(advice).typing("kvmbackup check --offline".to_owned()));
    }
    found.extend(of_survey(view));
    for (job, past) in &view.ledger.jobs {
        let planned = view.survey.and_then(|survey| survey.jobs.get(job));
        let late = planned.and_then(|planned| past.late(planned, view.now));
        if let Some(since) = late.filter(|_| !view.running) {
            let what = format!("Job {job}: no run has started for {}", span(since));
            let advice = "Check that cron or a timer starts the runs.";
            let trouble = Trouble::of_host(Tone::Bad, what).saying(advice);
            found.push(trouble.typing("systemctl status cron.service; systemctl list-timers".to_owned()));
        }
        if past.running.is_some() && !view.running {
            let what = format!("Job {job}: the last run was killed");
            let advice = "The next run cleans up after it. This command does so now.";
            found.push(Trouble::of_host(Tone::Note, what).saying(advice).typing("kvmbackup recover".to_owned()));
        }
    }
    found
}

/// Problems that the last survey of libvirt and the target found.
fn of_survey(view: &View<'_>) -> Vec<Trouble> {
    let Some(survey) = view.survey else { return Vec::new() };
    let mut found = Vec::new();
    if !survey.libvirt_ok {
        let trouble = Trouble::of_host(Tone::Bad, "libvirt does not respond".to_owned());
        let command = "systemctl status libvirtd.service virtqemud.service".to_owned();
        found.push(trouble.saying("No guest can be backed up.").typing(command));
    }
    found.extend(survey.targets().filter_map(of_target));
    if view.now - survey.time > TimeDelta::hours(1) {
        let what = format!("The last survey of libvirt and the target was {}", ago(view.now, survey.time));
        let advice =
            "Their data on this page is equally old. The exporter surveys them every minute, unless one of them hangs.";
        found.push(Trouble::of_host(Tone::Note, what).saying(advice));
    }
    found
}

/// A target that cannot be written to, or is almost full.
fn of_target(target: &SeenRepository) -> Option<Trouble> {
    let path = target.path.display().to_string();
    if !target.up {
        let (advice, command) = if BucketUrl::is_meant(&path) {
            (
                "Its server does not respond, refuses the access key, or has no repository there.",
                "kvmbackup check".to_owned(),
            )
        } else {
            let command = format!("findmnt --target {}", quoted(&path));
            ("It does not respond, is not mounted, or is read-only.", command)
        };
        let trouble = Trouble::of_host(Tone::Bad, format!("The target {path} is not writable"));
        return Some(trouble.saying(advice).typing(command));
    }
    let is_full = target.capacity_bytes > 0 && target.available_bytes < target.capacity_bytes / 10;
    is_full.then(|| {
        let what = format!("The target {path} is almost full: {} left", size::bytes(target.available_bytes));
        let trouble = Trouble::of_host(Tone::Note, what);
        trouble.saying("See what retention would remove.").typing("kvmbackup prune --dry-run".to_owned())
    })
}
