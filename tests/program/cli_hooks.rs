//! Hooks of a run and its domains, as far as no guest needs to run.

use crate::host::Host;

/// Entries of `hooks` for every level of a configuration.
fn configure(host: &Host, hooks: &str, domains: &str) {
    host.configure(&format!("hooks: [{hooks}]"), domains);
}

/// A command that logs its name, phase, domain and status, then follows the given instruction.
fn noting(host: &Host, name: &str, phases: &str, then: &str, keys: &str) -> String {
    let log = host.path("log");
    let script =
        format!("echo {name} $KVMBACKUP_PHASE $KVMBACKUP_DOMAIN $KVMBACKUP_STATUS >>{}; {then}", log.display());
    format!("{{name: {name}, phase: [{phases}], command: [/bin/sh, -c, {script:?}]{keys}}}")
}

fn log(host: &Host) -> Vec<String> {
    let text = std::fs::read_to_string(host.path("log")).unwrap_or_default();
    let _ = std::fs::remove_file(host.path("log"));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn domain_that_is_off_has_its_own_phases_and_none_of_a_snapshot() {
    let host = Host::new(&["a", "b"]);
    let all =
        "pre-run, pre-domain, pre-snapshot, post-snapshot, pre-commit, post-commit, post-domain, on-failure, post-run";
    configure(&host, &noting(&host, "n", all, ":", ""), "{\"*\": {day_of_week: daily}}");
    host.run("backup").ends(0);
    let domains = ["a", "b"].map(|name| [format!("n pre-domain {name} running"), format!("n post-domain {name} ok")]);
    let expected = [vec!["n pre-run running".into()], domains.concat(), vec!["n post-run ok".into()]].concat();
    assert_eq!(log(&host), expected);
    host.run("backup --dry-run").ends(0);
    assert_eq!(log(&host), [""; 0]);
}

#[test]
fn run_without_due_domains_calls_its_hooks() {
    let host = Host::new(&["a"]);
    let days = format!("{{a: {{day_of_week: {}}}}}", host.another_day());
    configure(&host, &noting(&host, "ping", "pre-run, post-run", ":", ""), &days);
    host.run("backup").ends(0).tells(&["nothing is due today"]);
    assert_eq!(log(&host), ["ping pre-run running", "ping post-run ok"]);
}

#[test]
fn failing_domain_is_reported_to_its_hooks_and_to_those_of_the_run() {
    let host = Host::new(&["a", "b"]);
    let hooks = noting(&host, "n", "post-domain, on-failure, post-run", ":", "");
    configure(&host, &hooks, "{\"*\": {day_of_week: daily}}");
    std::fs::remove_file(host.image("a")).unwrap();
    host.run("backup").ends(1);
    let failed = ["n post-domain a failed", "n on-failure a failed", "n post-domain b ok", "n post-run failed"];
    assert_eq!(log(&host), failed);
}

#[test]
fn fail_run_starts_no_other_domain() {
    let host = Host::new(&["a", "b", "c"]);
    let hooks = noting(&host, "n", "pre-domain", "[ $KVMBACKUP_DOMAIN != b ]", ", on_error: fail_run");
    configure(&host, &hooks, "{\"*\": {day_of_week: daily}}");
    let ran = host.run("backup").ends(1);
    assert_eq!(log(&host), ["n pre-domain a running", "n pre-domain b running"]);
    assert_eq!([1, 0, 0], ["a", "b", "c"].map(|name| host.archives(name).len()));
    ran.tells(&["c", "not started because the run was stopped: hook n (pre-domain): exit status 1"]);
}

#[test]
fn exit_status_75_is_no_failure() {
    let host = Host::new(&["a", "b"]);
    let hooks = noting(&host, "n", "pre-domain", "[ $KVMBACKUP_DOMAIN != a ] || exit 75", "");
    configure(&host, &hooks, "{\"*\": {day_of_week: daily}}");
    host.run("backup").ends(0).tells(&["1 of 2 good, 1 skipped"]).tells(&["skipped: a (by n)"]);
    assert_eq!([0, 1], ["a", "b"].map(|name| host.archives(name).len()));
    log(&host);

    let hooks = noting(&host, "n", "pre-run, post-run", "[ $KVMBACKUP_PHASE = post-run ] || exit 75", "");
    configure(&host, &hooks, "{\"*\": {day_of_week: daily}}");
    host.run("backup").ends(0).tells(&["skipped by hook n"]);
    assert_eq!(log(&host), ["n pre-run running", "n post-run skipped"]);
    assert_eq!([0, 1], ["a", "b"].map(|name| host.archives(name).len()));
}

#[test]
fn run_refused_by_a_hook_leaves_a_report_and_runs_the_hooks_for_its_end() {
    let host = Host::new(&["a"]);
    let first = noting(&host, "first", "pre-run, post-run", ":", "");
    let second = noting(&host, "second", "pre-run, on-failure", "[ $KVMBACKUP_PHASE = on-failure ]", "");
    configure(&host, &format!("{first}, {second}"), "{\"*\": {day_of_week: daily}}");
    host.run("backup").ends(1).tells(&["hook second (pre-run): exit status 1"]);
    let told = ["first pre-run running", "second pre-run running", "first post-run failed", "second on-failure failed"];
    assert_eq!(log(&host), told);
    host.run("report").ends(0).tells(&["hook second (pre-run): exit status 1"]);
    assert!(host.archives("a").is_empty());
}

#[test]
fn warning_of_a_hook_is_reported_and_changes_nothing_else() {
    let host = Host::new(&["a"]);
    let hooks = noting(&host, "n", "post-domain, post-run", "echo it is a pity; exit 3", "");
    configure(&host, &hooks, "{\"*\": {day_of_week: daily}}");
    let ran = host.run("backup").ends(0).tells(&["hook n (post-domain): exit status 3"]);
    let ran = ran.tells(&["hook n (post-run): exit status 3"]).tells(&["    | it is a pity"]);
    assert!(ran.out.contains("WARNINGS"), "{}", ran.out);
}

#[test]
fn hook_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new(&["a"]);
    let path = host.path("hook");
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    for mode in [0o775, 0o757, 0o644] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let hooks = format!("{{name: n, phase: pre-domain, command: [{path:?}]}}");
        configure(&host, &hooks, "{\"*\": {day_of_week: daily}}");
        let ran = host.run("backup").ends(1);
        assert!(ran.out.contains(path.to_str().unwrap()) && ran.out.contains("hint"), "{mode:o}: {}", ran.out);
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    host.run("backup").ends(0);
}

#[test]
fn hooks_are_listed_in_the_order_in_which_they_run() {
    let host = Host::new(&["a"]);
    let late = noting(&host, "late", "pre-domain", ":", ", order: 9");
    let early = noting(&host, "early", "pre-domain", ":", ", order: -9, domains: [a]");
    let other = noting(&host, "other", "pre-domain", ":", ", domains: [\"b*\"]");
    configure(&host, &format!("{late}, {early}, {other}"), "{\"*\": {day_of_week: daily}}");
    let ran = host.run("hooks list --domain a").ends(0);
    let names: Vec<_> = ran.out.lines().skip(1).map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(names, ["early", "late"]);
    assert_eq!(log(&host), [""; 0]);
    host.configure("", "{a: {day_of_week: daily}}");
    host.run("hooks list --domain a").ends(0).tells(&["no hooks"]);
    let unknown = host.run("hooks list --domain zzz").ends(1);
    assert!(unknown.err.contains("zzz"), "{}", unknown.err);
}

#[test]
fn check_inspects_hooks_on_this_host() {
    let host = Host::new(&["a"]);
    configure(&host, "{name: gone, phase: pre-domain, command: [/nowhere/hook]}", "{\"*\": {day_of_week: daily}}");
    let ran = host.run("check --offline").ends(1);
    assert!(ran.out.contains("PROBLEM hook gone: ") && ran.out.contains("/nowhere: No such file"), "{}", ran.out);
    host.configure("", "{\"*\": {day_of_week: daily}}");
    host.run("check").ends(0).tells(&["ok", "configuration", "valid"]);
    host.write_config("desk: {backupdr: /x}\n");
    host.run("check").ends(2);
}
