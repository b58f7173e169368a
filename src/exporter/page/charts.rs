//! The charts: an age next to its schedule, the last attempts, and the fill level of the target. Each has a title with the
//! same information as text. It must not know HTML.

use std::collections::VecDeque;

use serde::Serialize;

use super::Tone;
use super::words::{count, span};
use crate::ledger::standing::Age;
use crate::ledger::{Attempt, DomainResult, SeenRepository};
use crate::model::size;

/// Attempts in the chart.
const ATTEMPTS: usize = 30;
/// Width of one attempt.
const STEP: f64 = 6.0;
/// Height of the tallest bars, above the line and below it.
const UP: f64 = 26.0;
const DOWN: f64 = 14.0;

/// A bar whose length is the age. The mark in the middle is the schedule, so twice the schedule fills the bar.
#[derive(Serialize)]
pub(super) struct Bar {
    tone: Tone,
    words: String,
    width: String,
}

pub(super) fn bar(age: Age) -> Option<Bar> {
    let (share, tone, words) = match age {
        Age::Never => (0.0, Tone::Bad, "no complete backup".to_owned()),
        Age::Awaited | Age::Unplanned(_) => return None,
        Age::OnTime { age, interval } => (ratio(age, interval), Tone::Good, said(age, interval)),
        Age::Late { age, interval } => (ratio(age, interval), Tone::Bad, said(age, interval)),
    };
    Some(Bar { tone, words, width: format!("{:.1}", (share * 50.0).clamp(0.0, 100.0)) })
}

fn ratio(age: chrono::TimeDelta, interval: chrono::TimeDelta) -> f64 {
    age.num_seconds() as f64 / interval.num_seconds().max(1) as f64
}

fn said(age: chrono::TimeDelta, interval: chrono::TimeDelta) -> String {
    format!("{} old, due every {}", span(age), span(interval))
}

/// The last attempts, newest on the right: bars up for bytes stored, bars down for durations, a cross for a failure. The
/// template draws the line between them.
#[derive(Serialize)]
pub(super) struct Attempts {
    words: String,
    stored: String,
    took: String,
    failed: String,
}

pub(super) fn attempts(history: &VecDeque<Attempt>) -> Option<Attempts> {
    let shown: Vec<&Attempt> = history.iter().skip(history.len().saturating_sub(ATTEMPTS)).collect();
    let most = shown.iter().map(|attempt| attempt.stored_bytes).max()?;
    let longest = shown.iter().map(|attempt| attempt.duration_ms).max()?;
    let first = ATTEMPTS - shown.len();
    let (mut stored, mut took, mut failed) = (String::new(), String::new(), String::new());
    for (at, attempt) in shown.iter().enumerate() {
        let x = (first + at) as f64 * STEP + STEP / 2.0;
        if attempt.stored_bytes > 0 {
            stored += &format!("M{x} {UP}v-{:.1}", height(attempt.stored_bytes, most, UP));
        }
        if attempt.duration_ms > 0 {
            took += &format!("M{x} {}v{:.1}", UP + 2.0, height(attempt.duration_ms, longest, DOWN));
        }
        if attempt.result == DomainResult::Failure {
            failed += &format!("M{} {}l4 4m0 -4l-4 4", x - 2.0, UP - 6.0);
        }
    }
    Some(Attempts { words: told(&shown, most, longest), stored, took, failed })
}

/// The height of a bar, large enough to be visible.
fn height(value: u64, most: u64, room: f64) -> f64 {
    (value as f64 / most.max(1) as f64 * room).max(1.0)
}

fn told(shown: &[&Attempt], most: u64, longest: u64) -> String {
    let failed = shown.iter().filter(|attempt| attempt.result == DomainResult::Failure).count() as u64;
    let took = |ms| size::duration(std::time::Duration::from_millis(ms));
    let newest = shown.last().map_or_else(String::new, |newest| {
        format!(": the newest stored {} in {}", size::bytes(newest.stored_bytes), took(newest.duration_ms))
    });
    format!(
        "The last {}{newest}; maximum {} and {}; {failed} failed",
        count(shown.len() as u64, "attempt", "attempts"),
        size::bytes(most),
        took(longest),
    )
}

/// The fill level of the target: restore points and all used space; widths in percent.
#[derive(Serialize)]
pub(super) struct Fill {
    words: String,
    used: String,
    ours: String,
}

pub(super) fn fill(repository: &SeenRepository) -> Fill {
    let capacity = repository.capacity_bytes.max(1);
    let used = capacity.saturating_sub(repository.available_bytes);
    let share = |bytes: u64| bytes.min(capacity) as f64 * 100.0 / capacity as f64;
    let (all, ours) = (share(used), share(repository.stored_bytes.min(used)));
    let words = format!("{all:.0}% of {} used, {ours:.0}% by restore points", size::bytes(capacity));
    Fill { words, used: format!("{all:.2}"), ours: format!("{ours:.2}") }
}
