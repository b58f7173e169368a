//! `kvmbackup copy`, with the real restic and a real REST server.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::maintain::{fill_with_noise, found, wait_for};
use super::{PASSWORD, configure_with, host};
use crate::host::{Host, Run, run};

const DAILY: &str = "{\"*\": {day_of_week: daily, rotate: 2}}";
const OF_COPY: &str = "kb-secret-of-the-copy";

/// Configures copies, each with these keys after its password.
fn configure(host: &Host, domains: &str, copies: &[(&str, &str, &str)]) {
    let password = host.path("copy-password");
    if !password.exists() {
        fs::write(&password, OF_COPY).unwrap();
        run("chmod", &["600", password.to_str().unwrap()]);
    }
    let entries: Vec<String> = copies
        .iter()
        .map(|(name, to, more)| format!("{{name: {name}, to: \"{to}\", password_file: {}{more}}}", password.display()))
        .collect();
    configure_with(host, &format!(", copies: [{}]", entries.join(", ")), domains);
}

/// A host with these guests, one restore point of each, and a copy in its directory `copy`, which does not exist yet.
fn backed_up(guests: &[&str], domains: &str, keys: &str) -> Host {
    let host = host(guests, domains);
    configure(&host, domains, &[("near", &copy(&host), keys)]);
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    host
}

fn copy(host: &Host) -> String {
    host.path("copy").display().to_string()
}

/// restic on the copy.
fn restic(host: &Host, words: &[&str]) -> String {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "-r"]).arg(host.path("copy")).args(words);
    let output = command.env("RESTIC_PASSWORD", OF_COPY).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The IDs of restore points in the copy, and which are protected.
fn there(host: &Host) -> Vec<(String, bool)> {
    let listed: Value = serde_json::from_str(&restic(host, &["snapshots", "--json"])).unwrap();
    let of = |snapshot: &Value| {
        let is_protected = snapshot["tags"].as_array().unwrap().contains(&"protected".into());
        (snapshot["time"].as_str().unwrap()[..19].replace(['-', ':'], "") + "Z", is_protected)
    };
    let mut found: Vec<_> = listed.as_array().unwrap().iter().map(of).collect();
    found.sort();
    found
}

/// The IDs of the restore points of a domain in the repository, oldest first.
fn points(host: &Host, domain: &str) -> Vec<String> {
    let listed = host.run(&format!("list {domain} --json")).ends(0).json();
    let mut ids: Vec<String> =
        listed["points"].as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn metric(host: &Host, name: &str, labels: &str) -> Option<f64> {
    let text = fs::read_to_string(host.path("metrics.prom")).unwrap();
    let start = format!("kvmbackup_copy_{name}{{{labels}}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

fn ledger(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.path("state/ledger.json")).unwrap()).unwrap()
}

fn copied(run: &Run, at: usize) -> usize {
    run.json()["copies"][at]["copied"].as_array().unwrap().len()
}

#[test]
fn copy_contains_every_point_is_checked_by_restic_and_can_be_restored() {
    let host = backed_up(&["a", "b"], DAILY, "");
    assert_eq!(metric(&host, "last_success_timestamp_seconds", "copy=\"near\""), Some(0.0), "never copied");
    assert_eq!(metric(&host, "interval_seconds", "copy=\"near\""), Some(86_400.0));

    let missing = host.run("copy").ends(5);
    assert!(missing.err.contains("copy near: cannot open it: ") && missing.err.contains("no such file"), "{missing:?}");
    assert!(missing.err.contains("copy near --init") && !host.path("copy").exists(), "{missing:?}");
    assert_eq!(metric(&host, "last_failed", "copy=\"near\""), Some(1.0));
    assert_eq!(metric(&host, "last_success_timestamp_seconds", "copy=\"near\""), Some(0.0));

    let first = host.run("copy --init").ends(0).tells(&["created the copy, copied 2 restore points, it contains 2"]);
    assert!(!format!("{first:?}").contains(OF_COPY) && !format!("{first:?}").contains(PASSWORD));
    assert_eq!(metric(&host, "last_failed", "copy=\"near\""), Some(0.0));
    assert!(metric(&host, "last_success_timestamp_seconds", "copy=\"near\"").unwrap() > 1e9);
    assert!(metric(&host, "newest_restore_point_timestamp_seconds", "copy=\"near\",domain=\"b\"").unwrap() > 1e9);
    assert_eq!(copied(&host.run("copy --json").ends(0), 0), 0, "nothing is copied twice");
    assert_eq!(host.run("-q copy").ends(0).out, "");
    restic(&host, &["check", "--read-data"]);

    host.run("backup --force a").ends(0);
    let newest = points(&host, "a").pop().unwrap();
    host.run("copy --dry-run").ends(0).tells(&["would copy 1 restore point, it contains 2"]).tells(&[&newest]);
    assert_eq!(there(&host).len(), 2);
    host.run("copy").ends(0).tells(&["copied 1 restore point, it contains 3"]);

    // The repository is lost, and the guest is restored from the copy.
    fs::remove_dir_all(host.path("repository")).unwrap();
    fs::rename(host.path("copy"), host.path("repository")).unwrap();
    fs::rename(host.path("copy-password"), host.path("password")).unwrap();
    let to = host.path("restored");
    fs::create_dir(&to).unwrap();
    host.run("verify --all").ends(0).tells(&["good"]);
    host.run(&format!("restore a --to {}", to.display())).ends(0);
    super::expect_same(&host.image("a"), "qcow2", &to.join("a.qcow2"), "qcow2");
}

#[test]
fn copy_keeps_the_newest_points_and_those_that_the_repository_removed() {
    let domains = "{\"*\": {day_of_week: daily, rotate: 3}}";
    let host = backed_up(&["a"], domains, ", keep: 2");
    host.run("backup --force").ends(0);
    host.run("backup --force").ends(0);
    let all = points(&host, "a");
    assert_eq!(all.len(), 3);
    let last = |count: usize| all[3 - count..].iter().map(|id| (id.clone(), false)).collect::<Vec<_>>();
    host.run("copy --init").ends(0).tells(&["copied 2 restore points, it contains 2"]);
    assert_eq!(there(&host), last(2));
    host.run("copy").ends(0).tells(&["copied 0 restore points, it contains 2"]);

    // Fewer in the repository than in the copy.
    configure(&host, "{\"*\": {day_of_week: daily, rotate: 1}}", &[("near", &copy(&host), ", keep: 2")]);
    host.run("prune").ends(0);
    assert_eq!(points(&host, "a").len(), 1);
    host.run("copy").ends(0).tells(&["copied 0 restore points, it contains 2"]);
    assert_eq!(there(&host), last(2));

    fill_with_noise(&host, "a", 7);
    host.run("backup --force").ends(0);
    let size = || run("du", &["-s", &copy(&host)]).split('\t').next().unwrap().parse::<u64>().unwrap();
    host.run("copy").ends(0).tells(&["copied 1 restore point, removed 1 restore point, it contains 2"]);
    let before = size();
    fill_with_noise(&host, "a", 8);
    host.run("backup --force").ends(0);
    host.run("copy").ends(0);
    fill_with_noise(&host, "a", 9);
    host.run("backup --force").ends(0);
    host.run("copy").ends(0).tells(&["removed 1 restore point"]);
    assert!(size() < before * 5 / 2, "the space of removed points is freed: {before} {}", size());
    restic(&host, &["check", "--read-data"]);
}

#[test]
fn protected_points_are_copied_and_never_removed_from_the_copy() {
    let domains = "{\"*\": {day_of_week: daily, rotate: 1}}";
    let host = backed_up(&["a"], domains, ", keep: 1");
    host.run("copy --init").ends(0);
    let first = points(&host, "a").pop().unwrap();
    host.run(&format!("protect a --at {first}")).ends(0);
    // Protected after it was copied: the copy is replaced by a protected one.
    host.run("copy").ends(0).tells(&["copied 1 restore point, removed 1 restore point, it contains 1"]);
    assert_eq!(there(&host), [(first.clone(), true)]);
    host.run("backup --force").ends(0);
    host.run("backup --force").ends(0);
    let newest = points(&host, "a").pop().unwrap();
    host.run("copy").ends(0);
    assert_eq!(there(&host), [(first.clone(), true), (newest.clone(), false)]);
    // No longer protected in the repository, which removes it.
    host.run(&format!("unprotect a --at {first}")).ends(0);
    host.run("prune").ends(0);
    host.run("copy").ends(0).tells(&["copied 0 restore points, it contains 2"]);
    assert_eq!(there(&host), [(first, true), (newest, false)]);
}

#[test]
fn failure_of_one_copy_does_not_stop_the_next_and_only_due_copies_are_made() {
    let host = backed_up(&["a"], DAILY, "");
    let no_directory = host.path("password").join("far").display().to_string();
    configure(&host, DAILY, &[("far", &no_directory, ""), ("near", &copy(&host), ", every: 1h")]);
    let both = host.run("copy --init --json").ends(5);
    assert!(both.json()["copies"][0]["error"].as_str().unwrap().starts_with("copy far: "), "{both:?}");
    assert_eq!((copied(&both, 0), copied(&both, 1)), (0, 1));
    assert_eq!(metric(&host, "last_failed", "copy=\"far\""), Some(1.0));
    assert_eq!(metric(&host, "last_failed", "copy=\"near\""), Some(0.0));

    // The failed one is due again, the other is not.
    let due = host.run("copy --due --json").ends(5).json();
    assert_eq!((due["copies"].as_array().unwrap().len(), &due["copies"][0]["name"]), (1, &"far".into()));
    let mut known = ledger(&host);
    known["copies"]["near"]["last_success"] = "2026-01-01T00:00:00Z".into();
    fs::write(host.path("state/ledger.json"), known.to_string()).unwrap();
    assert_eq!(host.run("copy --due --json").ends(5).json()["copies"].as_array().unwrap().len(), 2);
    host.run("copy near --due").ends(0);
    let unknown = host.run("copy nera").ends(1);
    assert!(unknown.err.contains("no copy `nera`") && unknown.err.contains("Did you mean `near`?"), "{unknown:?}");

    // With another address it is another copy, and copies that are not configured are forgotten.
    let other = host.path("other").display().to_string();
    configure(&host, DAILY, &[("near", &other, "")]);
    host.run("copy near --due --init").ends(0).tells(&["created the copy"]);
    assert_eq!(ledger(&host)["copies"].as_object().unwrap().keys().collect::<Vec<_>>(), ["near"]);
    assert_eq!(metric(&host, "last_failed", "copy=\"far\""), None);
    configure_with(&host, "", DAILY);
    let none = host.run("copy").ends(2);
    assert!(none.err.contains("no copies") && none.err.contains("repository.copies"), "{none:?}");
}

#[test]
fn wrong_password_and_the_repository_itself_are_refused() {
    let host = backed_up(&["a"], DAILY, "");
    host.run("copy --init").ends(0);
    fs::write(host.path("copy-password"), "another").unwrap();
    let wrong = host.run("copy").ends(5);
    assert!(wrong.err.contains("copy near: restic cat failed: wrong password"), "{wrong:?}");
    let again = host.run("copy --init").ends(5);
    assert!(again.err.contains("wrong password"), "an existing copy is never created again: {again:?}");
    fs::write(host.path("copy-password"), OF_COPY).unwrap();
    run("chmod", &["644", host.path("copy-password").to_str().unwrap()]);
    assert!(host.run("check").out.contains("other users can read it"));
    run("chown", &["65534", host.path("copy-password").to_str().unwrap()]);
    let untrusted = host.run("copy").ends(5);
    assert!(untrusted.err.contains("cannot be trusted"), "{untrusted:?}");

    run("chown", &["0", host.path("copy-password").to_str().unwrap()]);
    fs::write(host.path("copy-password"), PASSWORD).unwrap();
    fs::remove_dir_all(host.path("copy")).unwrap();
    std::os::unix::fs::symlink(host.path("repository"), host.path("copy")).unwrap();
    let points = points(&host, "a");
    configure(&host, DAILY, &[("near", &copy(&host), ", keep: 1")]);
    let itself = host.run("copy").ends(1);
    assert!(itself.err.contains("it is the repository itself"), "{itself:?}");
    assert_eq!(self::points(&host, "a"), points);
}
