//! Owns: the table of guests, one row each, which becomes one card each where there is no room. Must not: judge.

use std::time::Duration;

use super::guest::Guest;
use super::words::{badge, name, span, text, time, time_or_never};
use super::{Tone, View, charts};
use crate::ledger::standing::Age;
use crate::ledger::{Domain, DomainResult};
use crate::model::size;

const COLUMNS: [&str; 9] =
    ["Guest", "Last result", "Age", "Stored", "Took", "Consistency", "Restore points", "Verified", "Last attempts"];

/// The section of all guests that the configuration covers.
pub(super) fn section(view: &View<'_>) -> String {
    let guests: Vec<&Guest<'_>> = view.guests.iter().filter(|guest| guest.is_covered()).collect();
    if guests.is_empty() {
        let what = match view.survey {
            Some(_) => "No entry of the configuration covers a guest. Name guests under its key <code>domains</code>.",
            None => "Nothing is known of any guest yet: no run has ended, and nobody has looked at libvirt.",
        };
        return format!("<section><h2>Guests</h2><p class=\"empty\">{what}</p></section>\n");
    }
    let head: String = COLUMNS.iter().map(|column| format!("<th role=\"columnheader\">{column}</th>")).collect();
    let rows: String = guests.iter().map(|guest| row(view, guest)).collect();
    format!(
        "<section><h2>Guests <span class=\"quiet\">{}</span></h2><div class=\"card\">\
         <table class=\"guests\" role=\"table\"><thead role=\"rowgroup\"><tr role=\"row\">{head}</tr></thead>\
         <tbody role=\"rowgroup\">{rows}</tbody></table></div><p class=\"legend\">Age of the last good backup: the mark is the \
         schedule. Stored, of the bytes that were read. Last attempts, newest on the right: bars up are bytes stored, \
         bars down are durations, a cross is a failure.</p></section>\n",
        guests.len()
    )
}

fn row(view: &View<'_>, guest: &Guest<'_>) -> String {
    let cells = [
        title(view, guest),
        result(view, guest),
        age(guest),
        stored(guest),
        guest.past.filter(|past| past.last_attempt.is_some()).map_or_else(dash, took),
        consistency(guest),
        points(view, guest),
        time_or_never(view.now, guest.past.and_then(|past| past.last_verify)),
        guest.past.map_or_else(dash, |past| charts::attempts(&past.history)),
    ];
    let cells: String = COLUMNS
        .iter()
        .zip(cells)
        .map(|(column, cell)| format!("<td role=\"cell\" data-label=\"{column}\"><div>{cell}</div></td>"))
        .collect();
    format!("<tr role=\"row\" class=\"{}\">{cells}</tr>", guest.tone().class())
}

fn dash() -> String {
    "<span class=\"quiet\">–</span>".to_owned()
}

fn small(html: &str) -> String {
    format!("<small>{html}</small>")
}

/// The name; the job, where there are several; whether libvirt has it.
fn title(view: &View<'_>, guest: &Guest<'_>) -> String {
    let job = guest.seen.and_then(|seen| seen.job.as_deref()).or(guest.past.map(|past| past.job.as_str()));
    let several = view.survey.is_some_and(|survey| survey.jobs.len() > 1);
    let job = job.filter(|_| several).map_or_else(String::new, |job| small(&format!("job {}", name(job))));
    let gone = if guest.is_defined() { String::new() } else { small("not in libvirt") };
    format!("{}{job}{gone}", name(guest.name))
}

fn result(view: &View<'_>, guest: &Guest<'_>) -> String {
    // After a lost ledger, restore points exist whose runs are not known.
    let none = (Tone::Idle, if guest.last_success().is_some() { "unknown" } else { "none yet" });
    let Some(past) = guest.past else { return badge(none.0, none.1) };
    let (tone, word) = match past.last_result {
        Some(DomainResult::Success) => (Tone::Good, "saved"),
        Some(DomainResult::Warning) => (Tone::Note, "warning"),
        Some(DomainResult::Failure) => (Tone::Bad, "failed"),
        Some(DomainResult::Skipped) => (Tone::Note, "left out"),
        None => none,
    };
    let at = past.last_attempt.map_or_else(String::new, |at| small(&time(view.now, at)));
    format!("{}{at}", badge(tone, word))
}

fn age(guest: &Guest<'_>) -> String {
    let words = match guest.age {
        Age::Never => "<strong>never</strong>".to_owned(),
        Age::Awaited => format!("none yet{}", small("not due yet")),
        Age::Unplanned(age) => format!("{}{}", span(age), small("no schedule")),
        Age::OnTime { age, interval } => {
            let word = if age > interval { "due" } else { "on time" };
            format!("{} <small class=\"beside\">of {}, {word}</small>", span(age), span(interval))
        }
        Age::Late { age, interval } => {
            format!("<strong>{}</strong> <small class=\"beside\">of {}, late</small>", span(age), span(interval))
        }
    };
    format!("{words}{}", charts::age(guest.age))
}

/// Bytes stored, and of how many that were read.
fn stored(guest: &Guest<'_>) -> String {
    let Some(past) = guest.past.filter(|past| past.last_stored_bytes > 0) else { return dash() };
    let ratio = past.last_read_bytes as f64 / past.last_stored_bytes as f64;
    let of = format!("of {}, ratio\u{a0}{ratio:.2}", size::bytes(past.last_read_bytes));
    format!("{}{}", size::bytes(past.last_stored_bytes), small(&of))
}

fn took(past: &Domain) -> String {
    size::duration(Duration::from_millis(past.last_duration_ms))
}

fn consistency(guest: &Guest<'_>) -> String {
    let Some(reached) = guest.past.and_then(|past| past.consistency) else { return dash() };
    match guest.degraded() {
        Some((_, wanted)) => {
            format!("{}{}", badge(Tone::Note, reached.name()), small(&format!("wanted: {}", wanted.name())))
        }
        None => text(reached.name()),
    }
}

fn points(view: &View<'_>, guest: &Guest<'_>) -> String {
    let Some(points) = guest.seen.map(|seen| &seen.points).filter(|points| points.count > 0) else { return dash() };
    let oldest = match points.oldest {
        Some(oldest) => small(&format!("oldest {}", time(view.now, oldest))),
        None => String::new(),
    };
    format!("{} <small class=\"beside\">{}</small>{oldest}", points.count, size::bytes(points.bytes))
}
