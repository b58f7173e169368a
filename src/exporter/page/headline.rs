//! The headline of the status page and the line below it. It must not use data outside the view.

use serde::Serialize;

use super::guest::Guest;
use super::trouble::Trouble;
use super::words::{Moment, count};
use super::{Tone, View};
use crate::ledger::standing::Age;
use crate::model::command::typed;

/// The headline.
#[derive(Serialize)]
pub(super) struct Headline {
    pub tone: Tone,
    pub sentence: String,
    /// The command that shows which guests are due.
    pub command: String,
    /// When the last run ended.
    pub ended: Option<Moment>,
    pub notes: Vec<String>,
}

/// Builds the headline from the worst problem.
pub(super) fn of(view: &View<'_>, troubles: &[Trouble]) -> Headline {
    let covered: Vec<&Guest<'_>> = view.guests.iter().filter(|guest| guest.is_covered()).collect();
    let all = covered.len() as u64;
    let bad = covered.iter().filter(|guest| guest.tone() == Tone::Bad).count() as u64;
    let (calm, state) = state(view, &covered);
    let (tone, sentence) = if bad > 0 {
        let need = if bad == 1 { "needs attention" } else { "need attention" };
        (Tone::Bad, format!("{bad} of {} {need}", count(all, "guest", "guests")))
    } else if let Some(first) = troubles.iter().find(|trouble| trouble.tone == Tone::Bad) {
        // Problems of the host come first. At this point, a guest with one has no entry in the configuration.
        let what = match first.guest {
            None => lower_first(&first.what),
            Some(_) => others(view),
        };
        (Tone::Bad, format!("{state}, but: {what}"))
    } else {
        (calm, state)
    };
    let notes = troubles.iter().filter(|trouble| trouble.tone == Tone::Note).count() as u64;
    let ended = view.ledger.jobs.values().filter_map(|job| job.last_completion).max();
    let ended = ended.map(|ended| Moment::of(view.now, ended));
    let command = typed("kvmbackup backup --dry-run");
    Headline { tone, sentence, command, ended, notes: self::notes(view, all, notes) }
}

/// The state of the covered guests if nothing is critical.
fn state(view: &View<'_>, covered: &[&Guest<'_>]) -> (Tone, String) {
    let all = covered.len();
    let saved = covered.iter().filter(|guest| guest.age != Age::Awaited).count();
    let are = |count| if count == 1 { "is" } else { "are" };
    if !view.ledger.config_ok && view.survey.is_none() && all == 0 {
        (Tone::Note, "No backup has run yet, and no valid configuration was found".to_owned())
    } else if all == 0 {
        (Tone::Note, "No guests are configured".to_owned())
    } else if covered.iter().all(|guest| guest.is_new()) {
        (Tone::Note, "No backup has run yet".to_owned())
    } else if saved < all {
        let waiting = all - saved;
        let sentence =
            format!("{saved} of {all} guests {} backed up, {waiting} {} not due yet", are(saved), are(waiting));
        (Tone::Good, sentence)
    } else if all == 1 {
        (Tone::Good, "The only guest is backed up".to_owned())
    } else {
        (Tone::Good, format!("All {all} guests are backed up"))
    }
}

/// Counts guests in need of attention that the configuration does not cover.
fn others(view: &View<'_>) -> String {
    let others = view.guests.iter().filter(|guest| !guest.is_covered() && guest.tone() == Tone::Bad).count() as u64;
    let need = if others == 1 { "needs attention" } else { "need attention" };
    format!("{} {need}", count(others, "other guest", "other guests"))
}

fn lower_first(sentence: &str) -> String {
    match sentence.strip_prefix("The ") {
        Some(rest) => format!("the {rest}"),
        None => sentence.to_owned(),
    }
}

/// Additional remarks.
fn notes(view: &View<'_>, all: u64, notes: u64) -> Vec<String> {
    let unprotected = view.guests.iter().filter(|guest| guest.is_unprotected()).count() as u64;
    let notes = (notes > 0).then(|| format!("{}.", count(notes, "warning", "warnings")));
    let unprotected = (unprotected > 0 && all > 0)
        .then(|| format!("{} not in the configuration.", count(unprotected, "guest is", "guests are")));
    notes.into_iter().chain(unprotected).collect()
}
