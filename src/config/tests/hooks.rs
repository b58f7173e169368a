//! Tests the values and the mistakes of the key `hooks`.

use super::super::*;
use super::{complaints, read};
use crate::model::{Consistency, Phase, Span};

const LEVELS: &str = "\
defaults:
  day_of_week: daily
  hooks:
    - {name: ping, phase: [post-run, pre-run, on-failure], command: [/bin/ping, -x], on_error: warn, order: 5}
h:
  backupdir: /b
  hooks:
    - name: lock
      type: session
      phase: snapshot
      command: [/bin/lock, \"with space\"]
      domains: [\"db*\"]
      hold_timeout: 2m
  domains:
    db1:
      hooks:
        - {name: flush, phase: pre-snapshot, command: [/bin/flush], order: -1, where: guest, env: {A_1: 7}, on_error: degrade}
    web: {}
";

#[test]
fn hooks_of_all_levels_are_combined_and_sorted() {
    let settings = read(LEVELS);
    let names = |hooks: &[Hook]| hooks.iter().map(|hook| hook.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&settings.hooks), ["lock", "ping"]);
    assert_eq!(names(&settings.rules[0].domain.hooks), ["flush", "lock", "ping"]);
    assert_eq!(names(&settings.rules[1].domain.hooks), ["lock", "ping"]);
    let [flush, lock, ping] = settings.rules[0].domain.hooks.as_slice() else { panic!() };
    assert!(lock.is_for("db1") && !lock.is_for("web") && ping.is_for("web"));
    assert_eq!(lock.command, ["/bin/lock", "with space"]);
    let seconds = std::time::Duration::from_secs;
    let kind = HookKind::Session { span: Span::Snapshot, ready: seconds(30), hold: seconds(120), release: seconds(30) };
    assert_eq!((&lock.kind, lock.on_error, lock.place), (&kind, OnError::FailDomain, HookPlace::Host));
    assert_eq!((flush.place, flush.on_error, flush.order), (HookPlace::Guest, OnError::Degrade, -1));
    assert_eq!(flush.env["A_1"], "7");
    assert!(flush.runs_in(Phase::PreSnapshot) && !flush.runs_in(Phase::PostSnapshot));
    let phases = vec![Phase::PreRun, Phase::OnFailure, Phase::PostRun];
    assert_eq!(ping.kind, HookKind::Command { phases, timeout: seconds(60) });
}

#[test]
fn session_around_the_snapshot_requests_application_consistency() {
    let settings = read(LEVELS);
    let wanted = |rule: usize, name| settings.rules[rule].domain.wanted(name);
    // `lock` runs only for `db*`.
    assert_eq!((wanted(0, "db1"), wanted(1, "web")), (Consistency::Application, Consistency::Filesystem));
    let text = "h: {backupdir: /b, day_of_week: daily, domains: {a: {quiesce: require}, b: {quiesce: never}}}";
    let rules = read(text).rules;
    let wanted = [0, 1].map(|rule| rules[rule].domain.wanted("a"));
    assert_eq!(wanted, [Consistency::Filesystem, Consistency::Crash]);
}

#[test]
fn hooks_after_the_backup_only_warn_by_default() {
    let text =
        "h: {backupdir: /b, day_of_week: daily, domains: {a: {}}, hooks: [{name: p, phase: post-domain, command: /x}]}";
    assert_eq!(read(text).hooks[0].on_error, OnError::Warn);
}

/// The complaints about the entries of a host's `hooks`.
fn about(entries: &str) -> Vec<String> {
    let text = format!("h:\n  backupdir: /b\n  day_of_week: Sun\n  domains: {{a: {{}}}}\n  hooks:\n    - {entries}\n");
    complaints(&text).into_iter().map(|line| line.splitn(3, ':').last().unwrap().trim().to_owned()).collect()
}

#[test]
fn complaints_name_the_valid_keys_and_values() {
    let keys = "name, type, phase, command, where, domains, order, env, timeout, ready_timeout, hold_timeout, \
                release_timeout, on_error";
    let phases =
        "pre-run, pre-domain, pre-snapshot, post-snapshot, pre-commit, post-commit, post-domain, on-failure, post-run";
    let valid = "a list of words, the first an absolute path; for a shell: [/bin/sh, -c, \"…\"]";
    for (entry, wrong) in [
        ("{}", "h.hooks: `name` is missing"),
        ("{name: a, phase: pre-run}", "h.hooks: `command` is missing"),
        ("{name: a, command: [/x]}", "h.hooks: `phase` is missing"),
        ("{name: ../a, phase: pre-run, command: [/x]}", "h.hooks.name: bad name \"../a\"; valid: letters, digits"),
        ("{name: a, phase: pre-run, command: [x]}", &format!("h.hooks.command: bad command; valid: {valid}")),
        ("{name: a, phase: pre-run, command: /x --y}", &format!("h.hooks.command: bad command; valid: {valid}")),
        (
            "{name: a, phase: pre-snap, command: [/x]}",
            &format!("h.hooks.phase: bad value \"pre-snap\"; valid: {phases}"),
        ),
        (
            "{name: a, type: session, phase: pre-run, command: [/x]}",
            "h.hooks.phase: bad value \"pre-run\"; valid: run, domain, snapshot, commit",
        ),
        (
            "{name: a, phase: pre-run, command: [/x], hold_timeout: 3s}",
            "h.hooks.hold_timeout: is not a key of a command; valid: timeout",
        ),
        (
            "{name: a, phase: pre-run, command: [/x], where: guest}",
            "h.hooks.where: is not allowed with a phase of the run",
        ),
        (
            "{name: a, phase: pre-run, command: [/x], domains: [b]}",
            "h.hooks.domains: is not allowed with a phase of the run",
        ),
        (
            "{name: a, phase: pre-run, command: [/x], env: {KVMBACKUP_X: 1}}",
            "h.hooks.env.KVMBACKUP_X: names that begin",
        ),
        (
            "{name: a, phase: pre-run, command: [/x], oder: 1}",
            &format!("h.hooks.oder: unknown key; valid: {keys}; did you mean `order`?"),
        ),
        ("{name: a, phase: pre-run, command: [/x], order: first}", "h.hooks.order: bad number \"first\""),
    ] {
        let all = about(entry);
        assert!(all.iter().any(|line| line.starts_with(wrong)), "{entry}: {all:#?}");
    }
    assert_eq!(
        about("{name: a, phase: pre-run, command: [/x]}\n    - {name: a, phase: pre-run, command: [/y]}").len(),
        1
    );
}
