//! A host with archives and a repository: which guest goes where, and what happens if one of them is out of order.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::host::{Host, NAME, run};
use crate::repository::{PASSWORD, expect_same, restic};
use crate::steps;
use kvmbackup::sys::step::Step;

/// A host with these guests and both stores.
fn host(guests: &[&str], domains: &str) -> Host {
    let host = Host::new(guests);
    configure(&host, domains);
    host.run("repository init").ends(0);
    host
}

fn configure(host: &Host, domains: &str) {
    fs::write(host.path("password"), PASSWORD).unwrap();
    run("chmod", &["600", host.path("password").to_str().unwrap()]);
    let path = |name: &str| host.path(name).display().to_string();
    let (url, password, cache) = (path("repository"), path("password"), path("cache"));
    let (archives, textfile) = (path("backups"), path("metrics.prom"));
    host.configure(
        &format!(
            "backupdir: {archives}\n\
             repository: {{url: {url}, password_file: {password}, cache_dir: {cache}}}\n\
             metrics: {{textfile: {textfile}}}\n\
             day_of_week: daily"
        ),
        domains,
    );
}

/// Domain, ID and store of each listed point.
fn listed(host: &Host, words: &str) -> Vec<(String, String, String)> {
    let listed = host.run(&format!("list --json {words}")).ends(0).json();
    let text = |point: &Value, key: &str| point[key].as_str().unwrap().to_owned();
    let points = listed["points"].as_array().unwrap().iter();
    points.map(|point| (text(point, "domain"), text(point, "id"), text(point, "store"))).collect()
}

/// The stores of each domain's points, by domain.
fn stores(host: &Host, words: &str) -> Vec<String> {
    listed(host, words).into_iter().map(|(domain, _, store)| format!("{domain} {store}")).collect()
}

fn dir(host: &Host, name: &str) -> String {
    fs::create_dir(host.path(name)).unwrap();
    host.path(name).display().to_string()
}

const THREE: &str = "{a: {store: archive, rotate: 2}, r: {store: repository, rotate: 2}, b: {store: both, rotate: 2}}";

#[test]
fn each_guest_goes_to_its_store_and_every_command_sees_both() {
    let host = host(&["a", "b", "r"], THREE);
    host.run("check").ends(0).tells(&["target", "backups"]).tells(&["target", "repository"]);
    host.run("backup").ends(0);
    assert_eq!(stores(&host, ""), ["a archive", "b archive", "b repository", "r repository"]);
    let ids: Vec<_> = listed(&host, "b").into_iter().map(|(_, id, _)| id).collect();
    assert_eq!(ids[0], ids[1], "a point and its copy have the same ID");
    host.run("list").ends(0).tells(&["STORE"]).tells(&["b", "archive"]).tells(&["b", "repository"]);
    assert_eq!(stores(&host, "--store archive"), ["a archive", "b archive"]);

    // Both restore the disk as it was, each with a program that is not ours.
    restic(&host, &["check", "--read-data"]);
    let parts = dir(&host, "parts");
    crate::host::unpack(&host.archives("b")[0], Path::new(&parts));
    expect_same(&host.image("b"), "qcow2", &host.path("parts/disks/vda.qcow2"), "qcow2");
    for store in ["archive", "repository"] {
        let to = dir(&host, &format!("from-{store}"));
        host.run(&format!("restore b --store {store} --to {to}")).ends(0);
        expect_same(&host.image("b"), "qcow2", &Path::new(&to).join("b.qcow2"), "qcow2");
    }
    let verified = host.run("verify --all --json").ends(0).json();
    assert_eq!(verified["points"].as_array().unwrap().len(), 4, "{verified:#}");
    let again = host.run("verify --all --older-than 1d --json").ends(0).json();
    assert_eq!(again["points"].as_array().unwrap().len(), 0, "each of the two has its own record: {again:#}");

    // A point and its copy are protected and pruned together.
    host.run("protect b").ends(0);
    for _ in 0..3 {
        host.run("backup --force b a").ends(0).tells(&["ok"]);
    }
    assert_eq!(listed(&host, "b").iter().filter(|(_, id, _)| *id == ids[0]).count(), 2);
    host.run(&format!("unprotect b --at {}", ids[0])).ends(0);
    host.run("prune --dry-run").ends(0).tells(&["STORE"]).tells(&["would remove", "no rule keeps it"]);
    host.run("prune").ends(0).tells(&["2 of", "removed"]);
    assert_eq!(stores(&host, "b"), ["b archive", "b repository", "b archive", "b repository"]);

    let metrics = fs::read_to_string(host.path("metrics.prom")).unwrap();
    for (name, kind) in [("a", "full"), ("b", "incremental"), ("r", "incremental")] {
        assert!(metrics.contains(&format!("domain=\"{name}\",mode=\"{kind}\"")), "{metrics}");
    }
    for target in ["backups", "repository"] {
        let line = format!("kvmbackup_repository_up{{repository=\"{}\"}} 1", host.path(target).display());
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert!(metrics.contains("domain=\"b\"} 2"), "a point and its copy count once: {metrics}");
}

#[test]
fn one_store_out_of_order_fails_only_the_guests_that_use_it() {
    let host = host(&["a", "b", "r"], THREE);
    host.run("backup").ends(0);
    fs::rename(host.path("repository/config"), host.path("config.away")).unwrap();
    let ran = host.run("backup --force").ends(1);
    ran.tells(&["PARTIAL", "b"]).tells(&["FAILED", "r"]).tells(&["ok", "a"]).tells(&["not in the repository"]);
    assert_eq!((host.archives("a").len(), host.archives("b").len()), (2, 2));
    assert_eq!(stores(&host, "--store archive a"), ["a archive", "a archive"]);
    let unreachable = host.run("list");
    assert!(unreachable.code == 5 && unreachable.err.contains("no repository found"), "{unreachable:?}");
    assert!(unreachable.err.contains("--store archive"), "{unreachable:?}");
    let to = dir(&host, "from-archive");
    let refused = host.run(&format!("restore b --to {to}")).ends(5);
    assert!(refused.err.contains("--store archive"), "{refused:?}");
    host.run(&format!("restore b --store archive --to {to}")).ends(0);
    let metrics = fs::read_to_string(host.path("metrics.prom")).unwrap();
    assert!(
        metrics.contains(&format!("kvmbackup_repository_up{{repository=\"{}\"}} 1", host.path("backups").display()))
    );
    fs::rename(host.path("config.away"), host.path("repository/config")).unwrap();

    // The archives cannot be written: `both` is partial, because the repository has the point.
    fs::rename(host.path("backups"), host.path("backups.away")).unwrap();
    fs::write(host.path("backups"), "no directory").unwrap();
    let before = restic(&host, &["snapshots", "--json"]).matches("\"hostname\"").count();
    let ran = host.run("backup --force").ends(1);
    ran.tells(&["PARTIAL", "b"]).tells(&["FAILED", "a"]).tells(&["ok", "r"]).tells(&["not in an archive"]);
    assert_eq!(
        restic(&host, &["snapshots", "--json"]).matches("\"hostname\"").count(),
        before + 2,
        "one of b, one of r"
    );
    fs::remove_file(host.path("backups")).unwrap();
    fs::rename(host.path("backups.away"), host.path("backups")).unwrap();
    host.run("backup --force").ends(0);
    restic(&host, &["check", "--read-data"]);
}

#[test]
fn repository_that_fails_in_the_middle_of_a_backup_leaves_an_archive() {
    let host = host(&["b"], "{b: {store: both}}");
    let config = host.path("config.yml");
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.args(["backup", "--host", NAME, "--config", config.to_str().unwrap()]);
    let ran = host.finish(steps::fault(&mut command, Step::ArchiveEnd.into(), "fail"));
    ran.ends(1).tells(&["PARTIAL", "b"]).tells(&["in an archive, but not in the repository"]);
    assert_eq!(stores(&host, ""), ["b archive"]);
    restic(&host, &["check", "--read-data"]);
    host.run("backup --force").ends(0);
    assert_eq!(stores(&host, ""), ["b archive", "b archive", "b repository"]);
}

#[test]
fn points_of_a_store_that_is_no_longer_used_are_rotated_away() {
    let host = host(&["a"], "{a: {rotate: 2}}");
    host.run("backup").ends(0);
    host.run("backup --force").ends(0);
    assert_eq!(stores(&host, ""), ["a archive", "a archive"]);
    configure(&host, "{a: {rotate: 2, store: repository}}");
    host.run("backup --force").ends(0);
    assert_eq!(stores(&host, ""), ["a archive", "a repository"]);
    host.run("backup --force").ends(0);
    assert_eq!(stores(&host, ""), ["a repository", "a repository"]);
    assert!(host.archives("a").is_empty());
    let usage = host.run("list --store tape");
    assert!(usage.code == 2 && usage.err.contains("archive, repository"), "{usage:?}");
}

#[test]
fn archives_are_imported_into_the_repository_of_the_same_host() {
    let host = host(&["a"], "{a: {}}");
    host.run("backup").ends(0);
    configure(&host, "{a: {store: repository}}");
    let from = host.path("backups").display().to_string();
    host.run(&format!("import --from {from}")).ends(0).tells(&["1 imported"]);
    host.run(&format!("import --from {from}")).ends(0).tells(&["1 already present"]);
    assert_eq!(stores(&host, ""), ["a archive", "a repository"]);
}

#[test]
fn run_killed_while_it_copies_a_point_to_an_archive_leaves_nothing() {
    let host = host(&["b"], "{b: {store: both, rotate: 3}}");
    let command = || {
        let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
        let config = host.path("config.yml");
        command.args(["backup", "--force", "--host", NAME, "--config", config.to_str().unwrap()]);
        command
    };
    let reached = steps::of(&mut command());
    let copying = reached.iter().skip_while(|at| at.step != Step::PartialCreate).copied().collect::<Vec<_>>();
    let written = [Step::PartialCreate, Step::ArchiveEnd, Step::ArchiveRename, Step::JournalUpdate, Step::JournalEnd];
    let kills = steps::only(&copying, &written);
    steps::assert_reached(&kills, &[&written]);
    for at in kills {
        steps::kill(&mut command(), at);
        host.run("recover");
        let partials = run("find", &[host.path("backups").to_str().unwrap(), "-name", "*.part"]);
        assert_eq!(partials, "", "{at:?}");
        host.run("backup --force").ends(0);
        let points = listed(&host, "");
        let [.., (_, first, archive), (_, second, repository)] = &points[..] else { panic!("{points:?}") };
        assert_eq!((first, &**archive, &**repository), (second, "archive", "repository"), "{at:?}");
    }
    restic(&host, &["check", "--read-data"]);
    let to = dir(&host, "restored");
    host.run(&format!("restore b --store archive --to {to}")).ends(0);
    expect_same(&host.image("b"), "qcow2", &host.path("restored/b.qcow2"), "qcow2");
}
