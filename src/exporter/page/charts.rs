//! Owns: what is drawn: an age beside its schedule, the last attempts, how full the repository is. Every drawing has a title
//! that says the same in words. Must not: know whose they are.

use std::collections::VecDeque;

use super::words::{count, span, text};
use crate::ledger::standing::Age;
use crate::ledger::{Attempt, DomainResult, SeenRepository};
use crate::model::size;

/// Attempts that are drawn.
const ATTEMPTS: usize = 30;
/// Width of one attempt.
const STEP: f64 = 6.0;
/// Height of the tallest bars, above the line and below it.
const UP: f64 = 26.0;
const DOWN: f64 = 14.0;

/// A bar that is as long as the age, and a mark where the schedule ends.
pub(super) fn age(age: Age) -> String {
    let (share, class, words) = match age {
        Age::Never => (0.0, "bad", "there is no good backup".to_owned()),
        Age::Awaited | Age::Unplanned(_) => return String::new(),
        Age::OnTime { age, interval } => (ratio(age, interval), "good", said(age, interval)),
        Age::Late { age, interval } => (ratio(age, interval), "bad", said(age, interval)),
    };
    // The mark stands in the middle: twice the schedule fills the bar.
    let width = (share * 50.0).clamp(0.0, 100.0);
    format!(
        "<svg class=\"age {class}\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" role=\"img\"><title>{words}</title>\
         <rect class=\"track\" y=\"2\" width=\"100\" height=\"6\"/><rect class=\"fill\" y=\"2\" width=\"{width:.1}\" height=\"6\"/>\
         <path class=\"mark\" d=\"M50 0v10\"/></svg>"
    )
}

fn ratio(age: chrono::TimeDelta, interval: chrono::TimeDelta) -> f64 {
    age.num_seconds() as f64 / interval.num_seconds().max(1) as f64
}

fn said(age: chrono::TimeDelta, interval: chrono::TimeDelta) -> String {
    format!("{} old, due every {}", span(age), span(interval))
}

/// The last attempts, newest on the right: bars up for bytes stored, bars down for durations, a cross for a failure.
pub(super) fn attempts(history: &VecDeque<Attempt>) -> String {
    let shown: Vec<&Attempt> = history.iter().skip(history.len().saturating_sub(ATTEMPTS)).collect();
    if shown.is_empty() {
        return "<span class=\"quiet\">no attempt yet</span>".to_owned();
    }
    let most = shown.iter().map(|attempt| attempt.stored_bytes).max().unwrap_or(0);
    let longest = shown.iter().map(|attempt| attempt.duration_ms).max().unwrap_or(0);
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
    let end = ATTEMPTS as f64 * STEP;
    format!(
        "<svg class=\"attempts\" viewBox=\"0 0 {end} {}\" role=\"img\"><title>{}</title>\
         <path class=\"base\" d=\"M0 {}h{end}\"/><path class=\"stored\" d=\"{stored}\"/><path class=\"took\" d=\"{took}\"/>\
         <path class=\"failed\" d=\"{failed}\"/></svg>",
        UP + 2.0 + DOWN,
        text(&told(&shown, most, longest)),
        UP + 1.0,
    )
}

/// Half a unit is the least that is seen.
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
        "The last {}{newest}; at most {} and {}; {failed} failed",
        count(shown.len() as u64, "attempt", "attempts"),
        size::bytes(most),
        took(longest),
    )
}

/// How full the repository is: restore points, what else is there, what is free.
pub(super) fn fill(repository: &SeenRepository) -> String {
    let capacity = repository.capacity_bytes.max(1);
    let used = capacity.saturating_sub(repository.available_bytes);
    let share = |bytes: u64| bytes.min(capacity) as f64 * 100.0 / capacity as f64;
    let ours = share(repository.stored_bytes.min(used));
    format!(
        "<svg class=\"fill\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" role=\"img\"><title>{:.0} % of {} are used, \
         {ours:.0} % by restore points</title><rect class=\"track\" width=\"100\" height=\"10\"/>\
         <rect class=\"others\" width=\"{:.2}\" height=\"10\"/><rect class=\"ours\" width=\"{ours:.2}\" height=\"10\"/></svg>",
        share(used),
        size::bytes(capacity),
        share(used),
    )
}
