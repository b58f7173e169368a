//! Which domains are backed up, in plans and in runs: days, names, globs, `--dry-run`.

use crate::host::Host;

#[test]
fn dry_run_gives_every_domain_a_reason_and_touches_nothing() {
    let host = Host::new(&["due", "waiting", "foreign"]);
    let waiting = host.another_day();
    host.configure(
        "",
        &format!("{{due: {{day_of_week: daily}}, waiting: {{day_of_week: {waiting}}}, gone: {{day_of_week: daily}}}}"),
    );
    let before = host.everything();
    let ran = host.run("backup --dry-run").ends(1);
    ran.tells(&["due", &format!("due: {}", full(host.today()))])
        .tells(&["waiting", "not today", &waiting.to_string(), "next"])
        .tells(&["gone", "does not exist"])
        .tells(&["foreign", "not in the configuration"]);
    let chosen = host.run("backup --dry-run waiting --force").ends(0);
    chosen.tells(&["waiting", "forced"]).tells(&["due", "not named on the command line"]);
    host.run("backup --dry-run --json").ends(1);
    assert!(!host.path("backups").exists() && !host.path("state").exists(), "a dry run created a directory");
    assert_eq!(host.everything(), before);
}

#[test]
fn dry_run_does_not_touch_files_of_earlier_runs() {
    let host = Host::new(&["a"]);
    host.configure("", "{a: {day_of_week: daily, rotate: 1}}");
    host.run("backup").ends(0);
    host.age("a", &[1, 2, 3]);
    std::fs::write(host.path("state/journal/0.json"), "{").unwrap();
    let before = host.everything();
    host.run("backup --dry-run").ends(0);
    assert_eq!(host.everything(), before);
}

#[test]
fn unknown_domain_in_the_configuration_is_an_error_and_the_others_are_backed_up() {
    let host = Host::new(&["web-1"]);
    host.configure("", "{web-1: {day_of_week: daily}, web-2: {day_of_week: daily}, \"db-*\": {day_of_week: daily}}");
    host.run("backup")
        .ends(1)
        .tells(&["ok", "web-1"])
        .tells(&["FAILED", "web-2"])
        .tells(&["domain `web-2` (line 2"])
        .tells(&["Did you mean `web-1`?"])
        .tells(&["FAILED", "db-*"])
        .tells(&["no existing domain matches `db-*`"]);
    assert_eq!(host.archives("web-1").len(), 1);
}

#[test]
fn unknown_domain_on_the_command_line_is_an_error_and_the_others_are_backed_up() {
    let host = Host::new(&["a", "b", "unlisted"]);
    host.configure("", "{a: {day_of_week: daily}, b: {day_of_week: daily}}");
    host.run("backup a nosuch no-* unlisted")
        .ends(1)
        .tells(&["ok", "a"])
        .tells(&["domain `nosuch` (the command line) does not exist"])
        .tells(&["no existing domain matches `no-*` (the command line)"])
        .tells(&["`unlisted`", "but not in the configuration"]);
    assert_eq!((host.archives("a").len(), host.archives("b").len()), (1, 0));
    assert!(host.archives("unlisted").is_empty());
}

#[test]
fn run_without_due_domains_prints_one_line_and_succeeds() {
    let host = Host::new(&["a", "b"]);
    host.configure("", &format!("{{\"*\": {{day_of_week: {}}}}}", host.another_day()));
    let ran = host.run("backup").ends(0);
    assert_eq!(ran.out, "kvmbackup: nothing is due today on desk (not due: 2)\n");
    assert_eq!(ran.err, "");
    let report = host.run("report --format json").ends(0).json();
    assert_eq!(report["not_due"], serde_json::json!(["a", "b"]));
}

#[test]
fn exact_name_wins_over_globs_and_the_first_glob_over_later_ones() {
    let host = Host::new(&["web-1", "web-2", "db"]);
    let never = host.another_day();
    host.configure("", &format!(
        "{{\"w*\": {{day_of_week: daily, compression: gzip}}, \"*\": {{day_of_week: daily, compression: none}}, web-2: {{day_of_week: {never}}}}}"
    ));
    host.run("backup").ends(0).tells(&["not due today: web-2"]);
    let name = |guest: &str| host.archives(guest)[0].file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name("web-1").ends_with("Z.tar.gz"), "the first glob");
    assert!(name("db").ends_with("Z.tar"), "the second glob");
    assert!(host.archives("web-2").is_empty(), "the exact name");
}

#[test]
fn days_are_read_in_any_case_and_length() {
    let host = Host::new(&["a", "b", "c", "d"]);
    let day = host.today().to_string();
    let long = full(host.today());
    host.configure("", &format!(
        "{{a: {{day_of_week: {}}}, b: {{day_of_week: [{long}]}}, c: {{day_of_week: DAILY}}, d: {{day_of_week: [{}]}}}}",
        day.to_uppercase(), long.to_lowercase()
    ));
    host.run("backup").ends(0).tells(&["4 of 4 good"]);
}

#[test]
fn missed_day_is_caught_up_once() {
    let host = Host::new(&["lax", "strict"]);
    let yesterday = host.today().pred();
    host.configure(
        "",
        &format!("{{lax: {{day_of_week: {yesterday}, catch_up: true}}, strict: {{day_of_week: {yesterday}}}}}"),
    );
    host.run("backup --dry-run")
        .ends(0)
        .tells(&["lax", "catching up: no restore point yet"])
        .tells(&["strict", "not today"]);
    host.run("backup").ends(0).tells(&["1 of 1 good"]).tells(&["not due today: strict"]);
    host.run("backup").ends(0).tells(&["nothing is due today"]);
    host.age("lax", &[2]);
    host.run("backup --dry-run").ends(0).tells(&["lax", "catching up: nothing since"]);
    host.run("backup").ends(0).tells(&["1 of 1 good"]);
}

/// The long name of a day.
fn full(day: chrono::Weekday) -> &'static str {
    use chrono::Weekday::*;
    match day {
        Mon => "Monday",
        Tue => "Tuesday",
        Wed => "Wednesday",
        Thu => "Thursday",
        Fri => "Friday",
        Sat => "Saturday",
        Sun => "Sunday",
    }
}

#[test]
fn run_starts_with_the_domain_that_has_waited_longest() {
    let host = Host::new(&["a", "b", "c"]);
    let log = host.path("log");
    let hook = host.script("hook", &format!("echo $KVMBACKUP_DOMAIN >>{}", log.display()));
    let hooks = format!("hooks: [{{name: note, phase: pre-domain, command: [{}]}}]", hook.display());
    host.configure(&hooks, "{\"*\": {day_of_week: daily}}");
    host.run("backup a").ends(0);
    host.run("backup").ends(0);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "a\nb\nc\na\n");
}

#[test]
fn excluded_domains_are_reported_as_excluded_everywhere() {
    let host = Host::new(&["test-1", "web", "stray"]);
    host.configure("", "{\"test-*\": {exclude: true}, \"w*\": {day_of_week: daily}}");
    let ran = host.run("backup").ends(0);
    assert!(host.archives("test-1").is_empty() && host.archives("web").len() == 1, "{ran:?}");
    host.run("backup --dry-run").ends(0).tells(&["test-1", "excluded by `test-*`"]);
    host.run("check").tells(&["ok", "domains `test-*`", "excluded from backup: test-1"]);
    let metrics = host.run("metrics --stdout").ends(0).out;
    for line in [
        "kvmbackup_domain_excluded{domain=\"test-1\"} 1",
        "kvmbackup_domain_excluded{domain=\"stray\"} 0",
        "kvmbackup_domain_protected{domain=\"stray\"} 0",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}: {metrics}");
    }
    let ran = host.run("backup --force test-1").ends(1);
    assert!(ran.out.contains("excluded by `test-*`") && ran.out.contains("hint: "), "{ran:?}");
}
