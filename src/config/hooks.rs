//! Owns: the value of the key `hooks`. Must not: run anything.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Problem, Problems};
use super::hook::{Hook, HookKind, HookPlace, OnError};
use super::key::{self, Level};
use super::keys::HOOK;
use super::node::Kind;
use super::place::Place;
use super::value;
use crate::model::{Phase, Span};

const TIMES_OF_SESSION: [&str; 3] = ["ready_timeout", "hold_timeout", "release_timeout"];

/// The entries of `hooks`, in their order.
pub(super) fn read(place: &Place<'_>, level: Level, problems: &mut Problems) -> Vec<Hook> {
    if place.is_null() {
        return Vec::new();
    }
    if !matches!(place.node.kind, Kind::List(_)) {
        problems.add(place.problem("must be a list (`- name: …` below it)"));
        return Vec::new();
    }
    place.items().iter().filter_map(|item| hook(item, level, problems)).collect()
}

/// Sorts the hooks of all levels, outer levels first, and reports names that are defined twice for a phase.
pub(super) fn joined(mut hooks: Vec<Hook>, problems: &mut Problems) -> Vec<Hook> {
    let mut seen: Vec<(&str, String, usize)> = Vec::new();
    for hook in &hooks {
        for moment in moments(hook) {
            match seen.iter().find(|(name, other, _)| *name == hook.name && *other == moment) {
                Some((_, _, line)) if *line != hook.line => {
                    let message = format!("hook `{}` is defined twice for {moment}; first on line {line}", hook.name);
                    problems.add(Problem::of_file(Some(hook.line), message));
                }
                Some(_) => {}
                None => seen.push((&hook.name, moment, hook.line)),
            }
        }
    }
    hooks.sort_by_key(|hook| hook.order);
    hooks
}

fn moments(hook: &Hook) -> Vec<String> {
    match &hook.kind {
        HookKind::Command { phases, .. } => phases.iter().map(|phase| phase.name().to_owned()).collect(),
        HookKind::Session { span, .. } => vec![span.name().to_owned()],
    }
}

fn hook(place: &Place<'_>, level: Level, problems: &mut Problems) -> Option<Hook> {
    let mut hook = Hook {
        name: String::new(),
        line: place.line,
        kind: HookKind::Command { phases: Vec::new(), timeout: Duration::from_secs(60) },
        command: Vec::new(),
        place: HookPlace::Host,
        domains: Vec::new(),
        order: 0,
        env: BTreeMap::new(),
        on_error: OnError::FailDomain,
    };
    let entries = key::inside(place, &mut hook, HOOK, problems);
    for name in ["name", "command", "phase"] {
        key::require(place, &entries, name, None, problems);
    }
    hook.kind = kind(&entries, problems)?;
    if of_the_run(&hook.kind) {
        if let Some(phase) = key::find(&entries, "phase").filter(|_| level == Level::Domain) {
            let message = "a phase of the run is not allowed in a domain, only in `defaults` or a host section";
            problems.add(phase.problem(message));
        }
        for (name, wrong) in [("where", hook.place == HookPlace::Guest), ("domains", !hook.domains.is_empty())] {
            if let Some(entry) = key::find(&entries, name).filter(|_| wrong) {
                problems.add(entry.problem("is not allowed with a phase of the run, which belongs to no domain"));
            }
        }
    }
    if key::find(&entries, "on_error").is_none() {
        hook.on_error = usual_on_error(&hook.kind);
    }
    (!hook.name.is_empty()).then_some(hook)
}

/// A hook before the backup may prevent one that must not be made; a hook after it can only report.
fn usual_on_error(kind: &HookKind) -> OnError {
    match kind {
        HookKind::Command { phases, .. } if !phases.iter().any(|phase| phase.is_pre()) => OnError::Warn,
        _ => OnError::FailDomain,
    }
}

fn of_the_run(kind: &HookKind) -> bool {
    match kind {
        HookKind::Command { phases, .. } => phases.iter().any(|phase| matches!(phase, Phase::PreRun | Phase::PostRun)),
        HookKind::Session { span, .. } => *span == Span::Run,
    }
}

fn kind(entries: &[Place<'_>], problems: &mut Problems) -> Option<HookKind> {
    const TYPES: [(&str, bool); 2] = [("command", false), ("session", true)];
    let is_session = key::find(entries, "type").and_then(|entry| value::word(entry, &TYPES, problems)) == Some(true);
    let (command, session) = (("command", &["timeout"][..]), ("session", &TIMES_OF_SESSION[..]));
    let ((word, own), (_, others)) = if is_session { (session, command) } else { (command, session) };
    for entry in entries.iter().filter(|entry| others.contains(&entry.name)) {
        problems.add(entry.wrong(format!("is not a key of a {word}"), own.join(", ")));
    }
    let phase = key::find(entries, "phase")?;
    let mut time = |key, usual| {
        let given = key::find(entries, key).and_then(|entry| value::duration(entry, problems));
        given.unwrap_or(Duration::from_secs(usual))
    };
    if is_session {
        let [ready, hold, release] = TIMES_OF_SESSION.map(|key| time(key, 30));
        let spans = Span::ALL.map(|span| (span.name(), span));
        return Some(HookKind::Session { span: value::word(phase, &spans, problems)?, ready, hold, release });
    }
    let timeout = time("timeout", 60);
    let words = Phase::ALL.map(|phase| (phase.name(), phase));
    let items = phase.items();
    let mut phases: Vec<Phase> = items.iter().filter_map(|item| value::word(item, &words, problems)).collect();
    phases.sort();
    phases.dedup();
    if items.is_empty() {
        problems.add(phase.problem("no phase given"));
    }
    (!phases.is_empty()).then_some(HookKind::Command { phases, timeout })
}

/// The name is also that of a folder in the archive.
pub(super) fn name(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = value::text(place, problems)?;
    let right = text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !right {
        problems.add(place.wrong(
            format!("bad name {text:?}"),
            "letters, digits, `.`, `_` and `-`, first a letter or digit, at most 64",
        ));
    }
    right.then(|| text.to_owned())
}

pub(super) fn command(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    const VALID: &str = "a list of words, the first an absolute path; for a shell: [/bin/sh, -c, \"…\"]";
    let words = value::words(place, problems);
    let right = words.first().is_some_and(|program| {
        let one_word =
            words.len() > 1 || !program.contains(char::is_whitespace) || matches!(place.node.kind, Kind::List(_));
        program.starts_with('/') && one_word
    });
    if !right {
        problems.add(place.wrong("bad command", VALID));
    }
    right.then_some(words)
}

pub(super) fn order(place: &Place<'_>, problems: &mut Problems) -> Option<i32> {
    let text = value::text(place, problems)?;
    let number = text.parse().ok();
    if number.is_none() {
        problems.add(place.wrong(format!("bad number {text:?}"), "a whole number; lower ones run first"));
    }
    number
}

pub(super) fn env(place: &Place<'_>, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for entry in place.entries(problems) {
        let name = entry.name;
        let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() || !letters || name.starts_with(|c: char| c.is_ascii_digit()) {
            problems.add(entry.wrong("bad name of a variable", "letters, digits and `_`"));
        } else if name.starts_with("KVMBACKUP_") {
            problems.add(entry.problem("names that begin with KVMBACKUP_ are reserved"));
        } else if let Some(text) = value::text(&entry, problems) {
            variables.insert(name.to_owned(), text.to_owned());
        }
    }
    variables
}
