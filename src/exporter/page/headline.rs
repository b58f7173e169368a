//! Owns: the one sentence that says how it stands, and the line below it. Must not: look at more than the view.

use super::guest::Guest;
use super::trouble::Trouble;
use super::words::{count, text, time};
use super::{Tone, View};
use crate::ledger::standing::Age;

/// What is read first.
pub(super) struct Headline {
    pub tone: Tone,
    /// Of the browser's tab, short.
    pub title: String,
    pub sentence: String,
    /// HTML.
    pub below: String,
}

/// The headline.
pub(super) fn of(view: &View<'_>, troubles: &[Trouble]) -> Headline {
    let covered: Vec<&Guest<'_>> = view.guests.iter().filter(|guest| guest.is_covered()).collect();
    let all = covered.len() as u64;
    let bad = covered.iter().filter(|guest| guest.tone() == Tone::Bad).count() as u64;
    let (calm, state) = state(view, &covered);
    let (tone, sentence) = if bad > 0 {
        let need = if bad == 1 { "needs attention" } else { "need attention" };
        (Tone::Bad, format!("{bad} of {} {need}", count(all, "guest", "guests")))
    } else if let Some(first) = troubles.iter().find(|trouble| trouble.tone == Tone::Bad) {
        // The host's come first; a guest's is one that nothing covers.
        let what = match first.guest {
            None => lower_first(&first.what),
            Some(_) => others(view),
        };
        (Tone::Bad, format!("{state}, but: {what}"))
    } else {
        (calm, state)
    };
    let notes = troubles.iter().filter(|trouble| trouble.tone == Tone::Note).count() as u64;
    Headline { tone, title: sentence.clone(), sentence, below: below(view, all, notes) }
}

/// How the covered guests stand, and how that looks, if nothing is bad.
fn state(view: &View<'_>, covered: &[&Guest<'_>]) -> (Tone, String) {
    let all = covered.len();
    let saved = covered.iter().filter(|guest| guest.age != Age::Awaited).count();
    let are = |count| if count == 1 { "is" } else { "are" };
    if !view.ledger.config_ok && view.survey.is_none() && all == 0 {
        (Tone::Note, "No backup has run yet, and there is no configuration that could be read".to_owned())
    } else if all == 0 {
        (Tone::Note, "No guest is in the configuration".to_owned())
    } else if covered.iter().all(|guest| guest.is_new()) {
        (Tone::Note, "No backup has run yet".to_owned())
    } else if saved < all {
        let waiting = all - saved;
        let sentence =
            format!("{saved} of {all} guests {} backed up, {waiting} {} not due yet", are(saved), are(waiting));
        (Tone::Good, sentence)
    } else if all == 1 {
        (Tone::Good, "The one guest is backed up".to_owned())
    } else {
        (Tone::Good, format!("All {all} guests are backed up"))
    }
}

/// What to say of guests that nothing covers and that are bad.
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

fn below(view: &View<'_>, all: u64, notes: u64) -> String {
    let mut facts = Vec::new();
    if view.running {
        facts.push("<strong>A run is on.</strong>".to_owned());
    }
    match view.ledger.jobs.values().filter_map(|job| job.last_completion).max() {
        Some(ended) => facts.push(format!("The last run ended {}.", time(view.now, ended))),
        None => facts.push(format!("See who is due, and why: {}", super::words::command("kvmbackup backup --dry-run"))),
    }
    if notes > 0 {
        facts.push(format!("{} worth a look.", count(notes, "thing is", "things are")));
    }
    let unprotected = view.guests.iter().filter(|guest| guest.is_unprotected()).count() as u64;
    if unprotected > 0 && all > 0 {
        facts.push(format!("{} not in the configuration.", text(&count(unprotected, "guest is", "guests are"))));
    }
    facts.join(" ")
}
