//! A host whose restore points are in a repository: every command, and what restic makes of the result.

mod copies;
mod forged;
mod full;
mod hosts;
mod keys;
mod large;
mod mailed;
mod maintain;
mod power_cut;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::host::{Host, run};

pub const PASSWORD: &str = "kb-secret-of-the-repository";

/// A host with these guests, whose restore points go into a repository.
pub fn host(guests: &[&str], domains: &str) -> Host {
    let host = Host::new(guests);
    configure(&host, domains);
    host
}

/// Makes a repository the target of a host.
pub fn configure(host: &Host, domains: &str) {
    configure_with(host, "", domains);
}

/// The same, with more keys of the repository.
fn configure_with(host: &Host, keys: &str, domains: &str) {
    configure_at(host, &host.path("repository"), keys, domains);
}

/// The same, with a repository in this directory.
fn configure_at(host: &Host, repository: &Path, keys: &str, domains: &str) {
    fs::write(host.path("password"), PASSWORD).unwrap();
    run("chmod", &["600", host.path("password").to_str().unwrap()]);
    let path = |name: &str| host.path(name).display().to_string();
    let (url, password, cache) = (repository.display(), path("password"), path("cache"));
    let textfile = path("metrics.prom");
    host.configure(
        &format!(
            "repository: {{url: {url}, password_file: {password}, cache_dir: {cache}{keys}}}\n\
             metrics: {{textfile: {textfile}}}\n\
             stall_timeout: 30s"
        ),
        domains,
    );
}

/// The same, with a copy in another directory of the host.
pub fn configure_copy(host: &Host, domains: &str) {
    copies::configure(host, domains, &[("near", &host.path("copy").display().to_string(), "")]);
}

pub fn restic(host: &Host, arguments: &[&str]) -> String {
    restic_at(host, &host.path("repository"), arguments)
}

/// The same, with a repository in this directory.
fn restic_at(host: &Host, repository: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "-r"]).arg(repository).args(arguments);
    let output = command.arg("--password-file").arg(host.path("password")).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

pub fn expect_same(a: &Path, a_format: &str, b: &Path, b_format: &str) {
    run("qemu-img", &["compare", "-f", a_format, "-F", b_format, a.to_str().unwrap(), b.to_str().unwrap()]);
}

/// Replaces the image of a guest by one with this many MiB of random data.
fn fill_with_noise(host: &Host, guest: &str, seed: u32, size: u32) {
    let noise =
        (0..size << 18).flat_map(|at| (at ^ seed).wrapping_mul(2_654_435_761).rotate_left(at % 31).to_le_bytes());
    let raw = host.path("noise");
    fs::write(&raw, noise.collect::<Vec<u8>>()).unwrap();
    let image = host.image(guest);
    run("qemu-img", &["convert", "-O", "qcow2", raw.to_str().unwrap(), image.to_str().unwrap()]);
}

/// The IDs of a guest's points, oldest first.
fn points(host: &Host, guest: &str) -> Vec<String> {
    let listed = host.run(&format!("list --json {guest}"));
    if listed.err.contains("no restore points") {
        return Vec::new();
    }
    let listed = listed.ends(0).json();
    let points = listed["points"].as_array().unwrap();
    points.iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect()
}

/// Restores a point of a guest and compares its disk with an image.
fn expect_point(host: &Host, guest: &str, id: &str, image: &Path) {
    let to = tempfile::tempdir().unwrap();
    host.run(&format!("restore {guest} --at {id} --to {}", to.path().display())).ends(0);
    expect_same(image, "qcow2", &to.path().join(format!("{guest}.qcow2")), "qcow2");
}

#[test]
fn every_command_works_on_a_repository_and_restic_reads_it() {
    let host = host(&["a", "b"], "{\"*\": {day_of_week: daily, rotate: 2}}");
    let created = host.run("repository init").ends(0);
    assert!(created.out.starts_with("created the repository "), "{}", created.out);
    host.run("backup").ends(0).tells(&["ok", "a", "direct/off"]);
    restic(&host, &["check", "--read-data"]);

    // Nothing changed, then one cluster did.
    host.run("backup --force").ends(0);
    run("qemu-io", &["-c", "write -P 0xcd 2M 64k", host.image("a").to_str().unwrap()]);
    host.run("backup --force a").ends(0);
    let listed = host.run("list --json").ends(0).json();
    let points = listed["points"].as_array().unwrap();
    let of = |name: &str| points.iter().filter(|point| point["domain"] == name).collect::<Vec<_>>();
    assert_eq!((of("a").len(), of("b").len()), (2, 2), "{listed:#}");

    let verified = host.run("verify --all --json").ends(0).json();
    assert_eq!(verified["points"].as_array().unwrap().len(), 4, "{verified:#}");

    let to = host.path("restored");
    fs::create_dir(&to).unwrap();
    host.run(&format!("restore a --to {}", to.display())).ends(0);
    expect_same(&host.image("a"), "qcow2", &to.join("a.qcow2"), "qcow2");
    let older = host.path("older");
    fs::create_dir(&older).unwrap();
    let at = of("a")[0]["id"].as_str().unwrap();
    host.run(&format!("restore a --at {at} --disk vda --to {}", older.display())).ends(0);
    let differs =
        Command::new("qemu-img").args(["compare", "-q"]).arg(host.image("a")).arg(older.join("a.qcow2")).status();
    assert_eq!(differs.unwrap().code(), Some(1));

    restic(&host, &["check", "--read-data"]);
    restic(&host, &["restore", "latest", "--host", "a", "--target", host.path("by-restic").to_str().unwrap()]);
    expect_same(&host.image("a"), "qcow2", &host.path("by-restic/a/disks/vda.raw"), "raw");
    assert!(restic(&host, &["snapshots"]).contains("4 snapshots"));

    let pruned = host.run("prune --dry-run").ends(0);
    assert!(pruned.out.contains("keep"), "{}", pruned.out);
    assert_eq!(fs::read_dir(host.path("repository/locks")).unwrap().count(), 0);
}

#[test]
fn repository_that_does_not_exist_is_never_created_by_a_run() {
    let host = host(&["a"], "{\"*\": {day_of_week: daily}}");
    let refused = host.run("backup").ends(5);
    assert!(!host.path("repository").exists(), "{}", refused.out);
    host.run("check")
        .ends(1)
        .tells(&["PROBLEM", "the repository does not exist"])
        .tells(&["kvmbackup", "repository init"]);
    fs::create_dir(host.path("repository")).unwrap();
    let refused = host.run("backup").ends(5);
    let said = refused.out + &refused.err;
    assert!(said.contains("no repository found") && said.contains("repository init"), "{said}");

    fs::remove_dir(host.path("repository")).unwrap();
    host.run("repository init").ends(0);
    let again = host.run("repository init");
    assert!(again.code != 0 && again.err.contains("already"), "{again:?}");
    host.run("backup").ends(0);
}

#[test]
fn init_needs_a_repository_in_the_configuration() {
    let host = Host::new(&["a"]);
    let refused = host.run("repository init");
    assert!(refused.code == 2 && refused.err.contains("names no repository"), "{refused:?}");
    assert!(refused.err.contains("Set `repository`") && !host.path("backups").exists(), "{refused:?}");
}

#[test]
fn wrong_and_exposed_passwords_are_reported_and_no_password_is_printed() {
    let host = host(&["a"], "{\"*\": {day_of_week: daily}}");
    host.run("repository init").ends(0);
    run("chmod", &["644", host.path("password").to_str().unwrap()]);
    let exposed = host.run("check");
    assert!(exposed.out.contains("other users can read it"), "{}", exposed.out);
    run("chmod", &["600", host.path("password").to_str().unwrap()]);
    let mut said = host.run("-vv backup").ends(0);
    said.out += &host.run("-vv list --json").ends(0).out;
    said.out += &host.run("-vv check").err;
    assert!(!format!("{said:?}").contains(PASSWORD));
    for file in ["last-report.json", "ledger.json"] {
        let text = fs::read_to_string(host.path("state").join(file)).unwrap();
        assert!(!text.contains(PASSWORD), "{file}");
    }

    fs::write(host.path("password"), "another").unwrap();
    let refused = host.run("backup --force");
    assert!(refused.code == 5 && (refused.out + &refused.err).contains("wrong password"));
    run("chown", &["65534", host.path("password").to_str().unwrap()]);
    let refused = host.run("list");
    assert!(refused.code != 0 && refused.err.contains("cannot be trusted"), "{refused:?}");
}
