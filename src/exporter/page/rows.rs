//! The rows of the table of guests. It must not judge the state of a guest or know HTML.

use std::time::Duration;

use serde::Serialize;

use super::guest::Guest;
use super::words::{Moment, span};
use super::{Badge, Tone, View, charts};
use crate::ledger::standing::Age;
use crate::ledger::{DomainRecord, DomainResult};
use crate::model::size;

/// A row; unknown values are empty.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    tone: Tone,
    name: &'a str,
    /// Set if there are several jobs.
    job: Option<&'a str>,
    defined: bool,
    result: Badge,
    attempted: Option<Moment>,
    age: Told,
    stored: Option<Stored>,
    took: Option<String>,
    reached: Option<&'static str>,
    /// The configured consistency, if it was not reached.
    wanted: Option<&'static str>,
    points: Option<Points>,
    verified: Option<Moment>,
    attempts: Option<charts::Attempts>,
}

/// An age next to its schedule.
#[derive(Serialize)]
struct Told {
    bad: bool,
    words: String,
    beside: Option<String>,
    below: Option<&'static str>,
    bar: Option<charts::Bar>,
}

#[derive(Serialize)]
struct Stored {
    bytes: String,
    read: String,
}

#[derive(Serialize)]
struct Points {
    count: u64,
    bytes: String,
    oldest: Option<Moment>,
}

/// The rows of all covered guests.
pub(super) fn all<'a>(view: &View<'a>) -> Vec<Row<'a>> {
    view.guests.iter().filter(|guest| guest.is_covered()).map(|guest| row(view, guest)).collect()
}

fn row<'a>(view: &View<'a>, guest: &Guest<'a>) -> Row<'a> {
    let past = guest.past;
    let moment = |at| Moment::of(view.now, at);
    let job = guest.seen.and_then(|seen| seen.job.as_deref()).or(past.map(|past| past.job.as_str()));
    let has_several = view.survey.is_some_and(|survey| survey.jobs.len() > 1);
    let attempted = past.and_then(|past| past.last_attempt);
    let points = guest.seen.map(|seen| &seen.points).filter(|points| points.count > 0);
    Row {
        tone: guest.tone(),
        name: guest.name,
        job: job.filter(|_| has_several),
        defined: guest.is_defined(),
        result: result(guest),
        attempted: attempted.map(moment),
        age: age(guest.age),
        stored: past.and_then(stored),
        took: past.filter(|_| attempted.is_some()).map(took),
        reached: past.and_then(|past| past.consistency).map(|reached| reached.name()),
        wanted: guest.degraded().map(|(_, wanted)| wanted.name()),
        points: points.map(|points| Points {
            count: points.count,
            bytes: size::bytes(points.bytes),
            oldest: points.oldest.map(moment),
        }),
        verified: past.and_then(|past| past.last_verify).map(moment),
        attempts: past.and_then(|past| charts::attempts(&past.history)),
    }
}

fn result(guest: &Guest<'_>) -> Badge {
    match guest.past.and_then(|past| past.last_result) {
        Some(DomainResult::Success) => Badge::new(Tone::Good, "ok"),
        Some(DomainResult::Warning) => Badge::new(Tone::Note, "warning"),
        Some(DomainResult::Failure) => Badge::new(Tone::Bad, "failed"),
        Some(DomainResult::Skipped) => Badge::new(Tone::Note, "skipped"),
        // If the ledger was lost, there are restore points without a known run.
        None if guest.last_success().is_some() => Badge::new(Tone::Idle, "unknown"),
        None => Badge::new(Tone::Idle, "none yet"),
    }
}

fn age(age: Age) -> Told {
    let of = |interval, word| Some(format!("of {}, {word}", span(interval)));
    let (words, beside, below) = match age {
        Age::Never => ("never".to_owned(), None, None),
        Age::Awaited => ("none yet".to_owned(), None, Some("not due yet")),
        Age::Unplanned(age) => (span(age), None, Some("no schedule")),
        Age::OnTime { age, interval } => {
            (span(age), of(interval, if age > interval { "due" } else { "on time" }), None)
        }
        Age::Late { age, interval } => (span(age), of(interval, "late"), None),
    };
    Told { bad: matches!(age, Age::Never | Age::Late { .. }), words, beside, below, bar: charts::bar(age) }
}

/// Bytes stored, compared with the bytes read. In a repository, their ratio says nothing: reading a whole disk may store
/// almost nothing.
fn stored(past: &DomainRecord) -> Option<Stored> {
    let (read, stored) = (past.last_read_bytes, past.last_stored_bytes);
    let in_repository = !past.disks.is_empty();
    if stored == 0 && !in_repository {
        return None;
    }
    let bytes = size::bytes(read);
    let read = if in_repository || read == 0 {
        format!("read {bytes}")
    } else {
        format!("of {bytes}, ratio\u{a0}{:.2}", read as f64 / stored as f64)
    };
    Some(Stored { bytes: size::bytes(stored), read })
}

fn took(past: &DomainRecord) -> String {
    size::duration(Duration::from_millis(past.last_duration_ms))
}
