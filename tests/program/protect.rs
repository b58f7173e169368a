//! A protected restore point is never removed until its protection ends, in both kinds of targets.

use std::fs;

use crate::host::Host;
use crate::repository::{host, restic};
use crate::steps;
use kvmbackup::sys::step::Step;

const DOMAINS: &str = "{\"*\": {day_of_week: daily, rotate: 1}}";

/// The points of `a`, oldest first: ID, and whether it is protected.
fn points(host: &Host) -> Vec<(String, bool)> {
    let listed = host.run("list --json").ends(0).json();
    let points = listed["points"].as_array().unwrap().iter();
    points.map(|point| (point["id"].as_str().unwrap().to_owned(), point["protected"].as_bool().unwrap())).collect()
}

fn protected_point_stays(host: &Host) {
    host.run("backup").ends(0);
    let (first, _) = points(host).remove(0);
    let told = host.run("protect a").ends(0);
    assert_eq!(told.out, format!("a {first}: protected\n"));
    host.run("protect a").ends(0);
    for _ in 0..2 {
        host.run("backup --force").ends(0);
    }
    // `rotate: 1` keeps the newest of the others.
    let now = points(host);
    assert!(now.len() == 2 && now[0] == (first.clone(), true) && !now[1].1, "{now:?}");
    assert!(host.run("list").ends(0).out.contains("PROTECTED"));
    host.run("prune --dry-run").ends(0).tells(&[&first, "keep", "protected"]);
    host.run("verify --all").ends(0);

    host.run(&format!("unprotect a --at {first}")).ends(0);
    assert!(points(host).iter().all(|(_, protected)| !protected));
    assert!(!host.run("list").ends(0).out.contains("PROTECTED"));
    host.run("prune").ends(0);
    assert_eq!(points(host), now[1..]);
    assert!(host.run("protect a --at 20010101T000000Z").err.contains("no restore point"));
}

#[test]
fn protected_archive_stays_until_its_protection_ends() {
    let host = Host::new(&["a"]);
    host.configure("", DOMAINS);
    protected_point_stays(&host);
    let left = fs::read_dir(host.path("backups/a")).unwrap().count();
    assert_eq!(left, 1, "the mark is gone");

    // Killed before the mark is written: nothing happened, and it can be repeated.
    let mut protect = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    protect.args(["protect", "a", "--config"]).arg(host.path("config.yml")).args(["--host", crate::host::NAME]);
    steps::assert_reached(&steps::of(&mut protect), &[steps::PROTECT]);
    host.run("unprotect a").ends(0);
    steps::kill(&mut protect, Step::PointProtect.into());
    assert!(!points(&host)[0].1);
    host.run("protect a").ends(0);
    assert!(points(&host)[0].1);
}

#[test]
fn protected_point_of_a_repository_stays_and_restic_knows_its_tag() {
    let host = host(&["a"], DOMAINS);
    host.run("repository init").ends(0);
    protected_point_stays(&host);
    host.run("protect a").ends(0);
    assert!(restic(&host, &["snapshots", "--tag", "protected"]).contains("1 snapshots"));
    // `restic forget` can be told to keep it, and the next backup builds on it.
    restic(&host, &["forget", "--host", "a", "--keep-tag", "protected", "--prune"]);
    let ran = host.run("backup --force --json").ends(0).json();
    assert!(ran["domains"][0]["stored_bytes"].as_u64().unwrap() < 1024, "{ran:#}");
    restic(&host, &["check", "--read-data"]);
}
