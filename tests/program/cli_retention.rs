//! What rotation removes and, above all, what it keeps.

use crate::host;
use crate::host::Host;

/// A guest with restore points of so many days ago, the oldest first, created without a rule.
fn with_points(days_ago: &[u64]) -> Host {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    host.age("a", days_ago);
    assert_eq!(host.archives("a").len(), days_ago.len());
    host
}

#[test]
fn rotate_keeps_the_given_number_and_reports_what_it_removed() {
    let host = with_points(&[5, 4, 3, 2, 1]);
    let old = host.archives("a");
    host.configure("", "{a: {day_of_week: daily, rotate: 3}}");
    host.run("backup").ends(0).tells(&["old restore points removed: a (3)"]);
    let kept = host.archives("a");
    assert_eq!(kept[..2], old[3..], "the newest of the old ones stay");
    assert_eq!(kept.len(), 3);
    let report = host.run("report --format json").json();
    assert_eq!(report["domains"][0]["restore_points"], 3);
    assert_eq!(report["domains"][0]["pruned"].as_array().unwrap().len(), 3);
}

#[test]
fn keep_keeps_days_and_weeks() {
    let host = with_points(&[60, 40, 30, 20, 10, 3, 2, 1]);
    let old = host.archives("a");
    host.configure("", "{a: {day_of_week: daily, keep: {daily: 3, monthly: 1}}}");
    host.run("backup").ends(0);
    // The new one, yesterday and the day before; the month's newest is the new one, too.
    let kept = host.archives("a");
    assert_eq!(kept[..2], old[6..]);
    assert_eq!(kept.len(), 3);
}

#[test]
fn all_points_stay_without_a_rule() {
    let host = with_points(&[900, 400, 2, 1]);
    host.configure("", "{a: {day_of_week: daily}}");
    host.run("backup").ends(0);
    assert_eq!(host.archives("a").len(), 5);
}

#[test]
fn failed_backup_removes_nothing() {
    let host = with_points(&[3, 2, 1]);
    let old = host.archives("a");
    host.configure("", "{a: {day_of_week: daily, rotate: 1}}");
    std::fs::remove_file(host.image("a")).unwrap();
    host.run("backup").ends(1).tells(&["FAILED", "a"]);
    assert_eq!(host.archives("a"), old);
    assert_eq!(host.run("report --format json").json()["domains"][0]["restore_points"], 3);
}

#[test]
fn backup_that_lacks_a_disk_does_not_displace_the_last_one_that_has_it() {
    let mut host = Host::new(&[]);
    host.add_with_encrypted_disk("a");
    host.configure("", "{a: {day_of_week: daily, exclude_disks: [vdb]}}");
    host.run("backup").ends(0);
    host.age("a", &[2, 1]);
    let whole = host.archives("a");
    host.configure("", "{a: {day_of_week: daily, rotate: 1}}");
    for _ in 0..2 {
        host.run("backup").ends(1).tells(&["PARTIAL", "a"]).tells(&["vdb", "encrypted"]);
        assert!(host.archives("a").contains(&whole[1]), "the newest complete one");
    }
    host.run("prune").ends(0).tells(&["the newest complete one"]);
    assert!(host.archives("a").contains(&whole[1]));
}

#[test]
fn target_that_refuses_the_new_archive_loses_no_old_one() {
    let host = with_points(&[2, 1]);
    let old = host.archives("a");
    host.configure("", "{a: {day_of_week: daily, rotate: 1}}");
    // The run may write only 16 KiB per file: the archive is started and cannot be finished.
    let config = host.path("config.yml");
    let mut command = host.command("sh");
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$@\"";
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_kvmbackup"), "-c"]).arg(&config).args(["--host", host::NAME]);
    std::fs::remove_file(host.image("a")).unwrap();
    let image = host.image("a");
    let random = host.path("random.raw");
    host::run("dd", &["if=/dev/urandom", &format!("of={}", random.display()), "bs=1M", "count=4", "status=none"]);
    host::run("qemu-img", &["convert", "-O", "qcow2", random.to_str().unwrap(), image.to_str().unwrap()]);
    host.finish(&mut command).ends(1).tells(&["FAILED", "a"]);
    assert_eq!(host.archives("a"), old, "the old ones stay, and nothing is left of the new one");
}

#[test]
fn prune_prints_the_reason_for_each_point_before_it_acts() {
    let host = with_points(&[3, 2, 1]);
    let old = host.archives("a");
    host.configure("", "{a: {day_of_week: daily, rotate: 2}}");
    let before = host.everything();
    host.run("prune --dry-run")
        .ends(0)
        .tells(&["keep", "last 1 of 2"])
        .tells(&["would remove", "no rule keeps it"])
        .tells(&["1 of 3 restore points would be removed"]);
    assert_eq!(host.everything(), before);
    host.run("prune").ends(0).tells(&["removed", "no rule keeps it"]);
    assert_eq!(host.archives("a"), old[1..]);
    host.run("prune").ends(0);
    assert_eq!(host.archives("a"), old[1..]);
}

#[test]
fn prune_ignores_domains_that_are_no_longer_configured() {
    let host = with_points(&[3, 2, 1]);
    let old = host.archives("a");
    host.configure("", "{b: {day_of_week: daily, rotate: 1}}");
    host.run("prune").ends(0);
    assert_eq!(host.archives("a"), old);
}
