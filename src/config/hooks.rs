//! Owns: how the key `hooks` is written. Must not: know at which level it stands beyond what it is told, or run anything.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Problem, Problems};
use super::hook::{Hook, HookKind, HookPlace, OnError};
use super::keys::{self, Level};
use super::node::Kind;
use super::place::Place;
use super::value;
use crate::model::{Phase, Span};

const TIMEOUT: Duration = Duration::from_secs(60);
const SESSION: Duration = Duration::from_secs(30);

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

/// Sorts what all levels together say, outer levels first, and complains of names that come twice in a phase.
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
    const PLACE: [(&str, HookPlace); 2] = [("host", HookPlace::Host), ("guest", HookPlace::Guest)];
    const ON_ERROR: [(&str, OnError); 5] = [
        ("fail_domain", OnError::FailDomain),
        ("fail_run", OnError::FailRun),
        ("warn", OnError::Warn),
        ("ignore", OnError::Ignore),
        ("degrade", OnError::Degrade),
    ];
    let entries = place.entries(problems);
    let entry = |name| entries.iter().find(|entry| entry.name == name);
    for unknown in entries.iter().filter(|entry| !keys::HOOK.contains(&entry.name)) {
        problems.add(value::unknown_key(unknown, "unknown key", keys::HOOK));
    }
    let required = |key: &'static str, problems: &mut Problems| {
        let found = entry(key);
        if found.is_none() {
            problems.add(place.problem(format!("`{key}` is missing")));
        }
        found
    };
    let name = required("name", problems).and_then(|entry| name(entry, problems));
    let command = required("command", problems).and_then(|entry| command(entry, problems));
    let kind = required("phase", problems).and_then(|phase| kind(phase, &entries, level, problems));
    let where_it_runs =
        entry("where").and_then(|entry| value::word(entry, &PLACE, problems)).unwrap_or(HookPlace::Host);
    let domains = entry("domains").map(|entry| value::words(entry, problems)).unwrap_or_default();
    let env = entry("env").map(|entry| env(entry, problems)).unwrap_or_default();
    let order = entry("order").and_then(|entry| order(entry, problems)).unwrap_or(0);
    let on_error = entry("on_error").and_then(|entry| value::word(entry, &ON_ERROR, problems));
    let kind = kind?;
    if of_the_run(&kind) {
        for (key, wrong) in [("where", where_it_runs == HookPlace::Guest), ("domains", !domains.is_empty())] {
            if let Some(entry) = entry(key).filter(|_| wrong) {
                problems.add(entry.problem("is not allowed beside a phase of the run, which has no domain"));
            }
        }
    }
    let on_error = on_error.unwrap_or_else(|| usual_on_error(&kind));
    Some(Hook {
        name: name?,
        line: place.line,
        kind,
        command: command?,
        place: where_it_runs,
        domains,
        order,
        env,
        on_error,
    })
}

/// What comes before may keep a backup from being made that nobody wants; what comes after can only be told.
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

fn kind(phase: &Place<'_>, entries: &[Place<'_>], level: Level, problems: &mut Problems) -> Option<HookKind> {
    let entry = |name| entries.iter().find(|entry| entry.name == name);
    let is_session =
        entry("type").and_then(|entry| value::word(entry, &[("command", false), ("session", true)], problems));
    let is_session = is_session.unwrap_or(false);
    let (own, others): (&[&str], &[&str]) = match is_session {
        true => (&["ready_timeout", "hold_timeout", "release_timeout"], &["timeout"]),
        false => (&["timeout"], &["ready_timeout", "hold_timeout", "release_timeout"]),
    };
    for entry in entries.iter().filter(|entry| others.contains(&entry.name)) {
        let kind = if is_session { "a session" } else { "a command" };
        problems.add(entry.wrong(format!("does not belong to {kind}"), own.join(", ")));
    }
    let mut time = |key, usual| entry(key).and_then(|entry| value::duration(entry, problems)).unwrap_or(usual);
    let kind = if is_session {
        let (ready, hold) = (time("ready_timeout", SESSION), time("hold_timeout", SESSION));
        let release = time("release_timeout", SESSION);
        let spans = Span::ALL.map(|span| (span.name(), span));
        HookKind::Session { span: value::word(phase, &spans, problems)?, ready, hold, release }
    } else {
        let timeout = time("timeout", TIMEOUT);
        let words = Phase::ALL.map(|phase| (phase.name(), phase));
        let items = phase.items();
        let mut phases: Vec<Phase> = items.iter().filter_map(|item| value::word(item, &words, problems)).collect();
        phases.sort();
        phases.dedup();
        if items.is_empty() {
            problems.add(phase.problem("is not a phase"));
        }
        if phases.is_empty() {
            return None;
        }
        HookKind::Command { phases, timeout }
    };
    if level == Level::Domain && of_the_run(&kind) {
        problems.add(phase.problem("a phase of the run belongs in `defaults` or a host section, not in a domain"));
    }
    Some(kind)
}

/// It names a folder in the archive.
fn name(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
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

fn command(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<String>> {
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

fn order(place: &Place<'_>, problems: &mut Problems) -> Option<i32> {
    let text = value::text(place, problems)?;
    let number = text.parse().ok();
    if number.is_none() {
        problems.add(place.wrong(format!("bad number {text:?}"), "a whole number; lower ones run first"));
    }
    number
}

fn env(place: &Place<'_>, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for entry in place.entries(problems) {
        let name = entry.name;
        let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() || !letters || name.starts_with(|c: char| c.is_ascii_digit()) {
            problems.add(entry.wrong("bad name of a variable", "letters, digits and `_`"));
        } else if name.starts_with("KVMBACKUP_") {
            problems.add(entry.problem("names that begin with KVMBACKUP_ are set by kvmbackup"));
        } else if let Some(text) = value::text(&entry, problems) {
            variables.insert(name.to_owned(), text.to_owned());
        }
    }
    variables
}
