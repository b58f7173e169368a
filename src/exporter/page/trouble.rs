//! Owns: what needs somebody: of the guests and of the host, worst first, each with the error and what to type.
//! Must not: decide how a guest stands.

use chrono::TimeDelta;

use super::words::{ago, command, name, shortened, span, symbol, text};
use super::{Tone, View};
use crate::model::command::quoted;
use crate::model::size;

/// Something that needs somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub tone: Tone,
    /// The guest.
    pub guest: Option<String>,
    /// A sentence; of a guest, without its subject.
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
        Trouble { error, ..self }
    }

    pub fn saying(self, advice: &str) -> Trouble {
        Trouble { advice: advice.to_owned(), ..self }
    }

    pub fn typing(mut self, command: String) -> Trouble {
        self.commands.push(command);
        self
    }
}

/// All of it: what is bad before what is worth a look, the host's before the guests', for it may be their cause.
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
        let advice = "No run can begin. What is shown here follows the last configuration that could be read.";
        found.push(trouble.saying(advice).typing("kvmbackup check --offline".to_owned()));
    }
    found.extend(of_survey(view));
    for (job, past) in &view.ledger.jobs {
        let planned = view.survey.and_then(|survey| survey.jobs.get(job));
        let late = planned.and_then(|planned| past.late(planned, view.now));
        if let Some(since) = late.filter(|_| !view.running) {
            let what = format!("Job {job}: no run has begun for {}", span(since));
            let advice = "Something has to start the runs: cron, or a timer.";
            let trouble = Trouble::of_host(Tone::Bad, what).saying(advice);
            found.push(trouble.typing("systemctl status cron.service; systemctl list-timers".to_owned()));
        }
        if past.running.is_some() && !view.running {
            let what = format!("Job {job}: the last run was killed");
            let advice = "The next run puts right what it left; so does this, now.";
            found.push(Trouble::of_host(Tone::Note, what).saying(advice).typing("kvmbackup recover".to_owned()));
        }
    }
    found
}

/// What was wrong when libvirt and the target were last looked at.
fn of_survey(view: &View<'_>) -> Vec<Trouble> {
    let Some(survey) = view.survey else { return Vec::new() };
    let mut found = Vec::new();
    let repository = &survey.repository;
    if !survey.libvirt_ok {
        let trouble = Trouble::of_host(Tone::Bad, "libvirt does not answer".to_owned());
        let command = "systemctl status libvirtd.service virtqemud.service".to_owned();
        found.push(trouble.saying("No guest can be backed up.").typing(command));
    }
    if !repository.up {
        let trouble = Trouble::of_host(Tone::Bad, "The repository cannot be written to".to_owned());
        let advice = "It does not answer, is not mounted, or is read-only.";
        let command = format!("findmnt --target {}", quoted(&repository.path.display().to_string()));
        found.push(trouble.saying(advice).typing(command));
    } else if repository.capacity_bytes > 0 && repository.available_bytes < repository.capacity_bytes / 10 {
        let what = format!("The repository is almost full: {} left", size::bytes(repository.available_bytes));
        let trouble = Trouble::of_host(Tone::Note, what);
        found.push(trouble.saying("See what retention would remove.").typing("kvmbackup prune --dry-run".to_owned()));
    }
    if view.now - survey.time > TimeDelta::hours(1) {
        let what = format!("libvirt and the repository were last looked at {}", ago(view.now, survey.time));
        let advice = "What is shown of them is as old. The exporter looks every minute, unless something hangs.";
        found.push(Trouble::of_host(Tone::Note, what).saying(advice));
    }
    found
}

/// The section; none if all is well.
pub(super) fn section(troubles: &[Trouble]) -> String {
    if troubles.is_empty() {
        return String::new();
    }
    let items: String = troubles.iter().map(item).collect();
    format!("<section><h2>Needs attention</h2><ul class=\"troubles\">{items}</ul></section>\n")
}

fn item(trouble: &Trouble) -> String {
    let subject = trouble.guest.as_deref().map_or_else(String::new, |guest| format!("{} ", name(guest)));
    let error = trouble
        .error
        .as_deref()
        .map_or_else(String::new, |error| format!("<p class=\"error\">{}</p>", text(&shortened(error))));
    let advice = if trouble.advice.is_empty() { String::new() } else { format!("<p>{}</p>", text(&trouble.advice)) };
    let commands: String = trouble.commands.iter().map(|line| format!("<li>{}</li>", command(line))).collect();
    let commands = if commands.is_empty() { commands } else { format!("<ul class=\"commands\">{commands}</ul>") };
    let word = if trouble.tone == Tone::Bad { "Act: " } else { "Look: " };
    format!(
        "<li class=\"{}\">{}<div><h3><span class=\"unseen\">{word}</span>{subject}{}</h3>{error}{advice}</div>{commands}</li>",
        trouble.tone.class(),
        symbol(trouble.tone),
        text(&trouble.what),
    )
}
