//! A repository in a bucket: every command, faults of the server, and what restic makes of the result.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bucket::{KEY, SECRET, Server};
use crate::host::{Host, Run, run};
use crate::repository::expect_same;

const PASSWORD: &str = "kb-secret-of-the-repository";
const DAILY: &str = "{\"*\": {day_of_week: daily, rotate: 2}}";

/// A host with these guests, whose repository is at this URL.
fn host(guests: &[&str], url: &str, more: &str) -> Host {
    let host = Host::new(guests);
    for (name, secret) in [("password", PASSWORD), ("secret", SECRET)] {
        fs::write(host.path(name), secret).unwrap();
        fs::set_permissions(host.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    configure(
        &host,
        url,
        &format!("access_key_id: {KEY}, secret_access_key_file: {}{more}", path(&host, "secret")),
        "",
    );
    host
}

fn configure(host: &Host, url: &str, key: &str, more: &str) {
    let (password, cache) = (path(host, "password"), path(host, "cache"));
    let repository =
        format!("repository: {{url: \"{url}\", password_file: {password}, cache_dir: {cache}, {key}}}\n{more}");
    host.configure(&repository, DAILY);
}

fn path(host: &Host, name: &str) -> String {
    host.path(name).display().to_string()
}

fn restic(host: &Host, server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "-r", &server.url()]).args(arguments);
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
    let output = command.arg("--password-file").arg(host.path("password")).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// Runs the program in an empty directory, which must stay empty: no path may be made of the URL.
fn run_there(host: &Host, words: &str, variables: &[(&str, &str)]) -> Run {
    let there = host.path("there");
    fs::create_dir_all(&there).unwrap();
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.current_dir(&there).args(words.split_whitespace()).args(["--host", crate::host::NAME, "--config"]);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        command.env_remove(name);
    }
    let run = host.finish(command.arg(host.path("config.yml")).envs(variables.iter().copied()));
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0, "{words}");
    for secret in [SECRET, PASSWORD] {
        assert!(!run.out.contains(secret) && !run.err.contains(secret), "{words}: {run:?}");
    }
    run
}

#[test]
fn every_command_works_on_a_bucket_and_restic_reads_it() {
    let server = Server::start();
    let host = host(&["a", "b"], &server.url(), "");
    let run_there = |words: &str| run_there(&host, words, &[]);
    let refused = run_there("backup").ends(5);
    assert!((refused.out + &refused.err).contains("no repository found"));
    run_there("check --offline");
    let created = run_there("repository init").ends(0);
    assert!(created.out.contains(&format!(" in {}\n", server.url())), "{}", created.out);
    run_there("backup").ends(0).tells(&["ok", "a", "direct/off"]);
    run("qemu-io", &["-c", "write -P 0xcd 2M 64k", host.image("a").to_str().unwrap()]);
    run_there("backup --force a").ends(0);
    let listed = run_there("list --json").ends(0).json();
    let points = listed["points"].as_array().unwrap();
    assert_eq!(points.len(), 3, "{listed:#}");
    let verified = run_there("-vvv verify --all --json").ends(0).json();
    assert_eq!(verified["points"].as_array().unwrap().len(), 3, "{verified:#}");

    let to = host.path("restored");
    fs::create_dir(&to).unwrap();
    run_there(&format!("restore a --to {}", to.display())).ends(0);
    expect_same(&host.image("a"), "qcow2", &to.join("a.qcow2"), "qcow2");

    restic(&host, &server, &["check", "--read-data"]);
    let target = host.path("by-restic");
    restic(&host, &server, &["restore", "latest", "--host", "a", "--target", target.to_str().unwrap()]);
    expect_same(&host.image("a"), "qcow2", &target.join("a/disks/vda.raw"), "raw");

    run_there("backup --force a").ends(0);
    run_there("prune").ends(0);
    run_there("maintain").ends(0);
    assert_eq!(run_there("list --json").ends(0).json()["points"].as_array().unwrap().len(), 3);
    assert_eq!(restic(&host, &server, &["list", "locks"]), "");
    restic(&host, &server, &["prune"]);
    restic(&host, &server, &["check", "--read-data"]);
    run_there("backup --force b").ends(0);
}

#[test]
fn check_and_metrics_report_a_bucket_without_size() {
    let server = Server::start();
    let host = host(&["a"], &server.url(), "");
    let missing = run_there(&host, "check", &[]).ends(1);
    assert!(missing.out.contains("no repository found") && missing.out.contains("repository init"), "{}", missing.out);
    run_there(&host, "repository init", &[]).ends(0);
    run_there(&host, "backup", &[]).ends(0);
    run_there(&host, "check", &[]).tells(&["target", &server.url(), "writable"]);
    let metrics = run_there(&host, "metrics --stdout", &[]).ends(0).out;
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{repository=\"{}\"}}", server.url())));
        line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.to_owned())
    };
    assert_eq!(value("kvmbackup_repository_up").as_deref(), Some("1"), "{metrics}");
    assert_eq!(value("kvmbackup_repository_capacity_bytes"), None);
    assert_eq!(value("kvmbackup_repository_available_bytes"), None);
    server.end();
    let gone = run_there(&host, "metrics --stdout", &[]).ends(0).out;
    assert!(gone.lines().any(|line| line.starts_with("kvmbackup_repository_up{") && line.ends_with(" 0")), "{gone}");
}

#[test]
fn key_comes_from_the_environment_unless_it_is_configured() {
    let server = Server::start();
    let host = host(&["a"], &server.url(), "");
    configure(&host, &server.url(), "region: us-east-1", "");
    let refused = run_there(&host, "repository init", &[]);
    assert!(refused.code != 0 && refused.err.contains("AWS_ACCESS_KEY_ID is not set"), "{refused:?}");
    assert!(refused.err.contains("secret_access_key_file"), "{refused:?}");
    let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    run_there(&host, "repository init", &keys).ends(0);
    let key = format!("access_key_id: {KEY}, secret_access_key_env: OF_BUCKET");
    configure(&host, &server.url(), &key, "");
    run_there(&host, "-vv backup", &[("OF_BUCKET", SECRET)]).ends(0);
    for file in ["last-report.json", "ledger.json"] {
        assert!(!fs::read_to_string(host.path("state").join(file)).unwrap().contains(SECRET), "{file}");
    }
}

#[test]
fn wrong_and_exposed_secrets_are_reported() {
    let server = Server::start();
    let host = host(&["a"], &server.url(), "");
    run_there(&host, "repository init", &[]).ends(0);
    fs::set_permissions(host.path("secret"), fs::Permissions::from_mode(0o644)).unwrap();
    run_there(&host, "check", &[]).tells(&["secret access key", "other users can read it"]);
    fs::write(host.path("secret"), "wrong").unwrap();
    let refused = run_there(&host, "backup", &[]).ends(5);
    let said = refused.out + &refused.err;
    assert!(said.contains("403 Forbidden") && said.contains("Check the access key and its secret"), "{said}");
    run("chown", &["65534", &path(&host, "secret")]);
    let refused = run_there(&host, "list", &[]);
    let said = "file with the secret access key of the repository cannot be trusted";
    assert!(refused.code != 0 && refused.err.contains(said), "{refused:?}");
}

#[test]
fn require_mount_and_keys_without_a_bucket_are_errors_of_the_configuration() {
    let host = host(&["a"], "s3:https://localhost:1/bucket", "");
    let key = "access_key_id: x, secret_access_key_env: X";
    configure(&host, "s3:https://localhost:1/bucket", key, "require_mount: true");
    let refused = run_there(&host, "check --offline", &[]);
    let said = refused.out + &refused.err;
    assert!(said.contains("`require_mount` is only for a target in a directory, not for a bucket"), "{said}");
    configure(&host, "/srv/repository", key, "");
    let refused = run_there(&host, "list", &[]);
    assert!(refused.err.contains("is only for a bucket"), "{refused:?}");
    configure(&host, "s3:localhost/bucket", key, "");
    let refused = run_there(&host, "list", &[]);
    assert!(refused.err.contains("is not the URL of a bucket"), "{refused:?}");
}

#[test]
fn server_that_is_gone_or_silent_ends_a_run_within_the_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), gone] {
        let url = format!("s3:http://{address}/bucket");
        let host = host(&["a", "b"], &url, "");
        configure(&host, &url, "access_key_id: x, secret_access_key_env: X", "stall_timeout: 5s");
        let begun = Instant::now();
        let refused = run_there(&host, "backup", &[("X", "y")]).ends(5);
        let said = refused.out + &refused.err;
        assert!(said.contains("Check that the server responds: curl "), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}

#[test]
fn run_survives_failures_of_the_server_and_leaves_a_sound_repository() {
    let server = Server::start();
    let host = host(&["a"], &server.url(), "");
    run_there(&host, "repository init", &[]).ends(0);
    for (at, (name, how)) in
        [("data/", "503"), ("data/", "cut"), ("index/", "lost"), ("snapshots/", "cut")].into_iter().enumerate()
    {
        let write = format!("write -P {} 3M 64k", at + 1);
        run("qemu-io", &["-c", &write, host.image("a").to_str().unwrap()]);
        server.fail("PUT", name, how, 2);
        run_there(&host, "backup --force", &[]).ends(0);
        restic(&host, &server, &["check", "--read-data"]);
    }
}

#[test]
fn upload_that_never_succeeds_fails_the_domain_and_leaves_a_sound_repository() {
    let server = Server::start();
    let host = host(&["a"], &server.url(), "");
    let key = format!("access_key_id: {KEY}, secret_access_key_file: {}", path(&host, "secret"));
    configure(&host, &server.url(), &key, "stall_timeout: 4s");
    run_there(&host, "repository init", &[]).ends(0);
    run_there(&host, "backup", &[]).ends(0);
    for how in ["cut", "503", "hang"] {
        run("qemu-io", &["-c", "write -P 0x77 4M 64k", host.image("a").to_str().unwrap()]);
        server.fail("PUT", "data/", how, 1_000_000);
        let failed = run_there(&host, "backup --force", &[]);
        assert_ne!(failed.code, 0, "{how}: {failed:?}");
        server.fail("PUT", "data/", how, 0);
        restic(&host, &server, &["check", "--read-data"]);
    }
    run_there(&host, "backup --force", &[]).ends(0);
    restic(&host, &server, &["check", "--read-data"]);
}

#[test]
fn server_with_a_private_authority_needs_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let server = Server::with_tls(&folder.path().join("leaf.pem"), &folder.path().join("leaf.key"));
    let host = host(&["a"], &server.url(), "");
    let refused = run_there(&host, "repository init", &[]);
    assert!(refused.code != 0 && refused.err.contains("invalid peer certificate"), "{refused:?}");
    assert!(refused.err.contains("ca_file"), "{refused:?}");
    let trusted = host.path("ca.pem");
    fs::copy(folder.path().join("ca.pem"), &trusted).unwrap();
    let key = format!("access_key_id: {KEY}, secret_access_key_file: {}", path(&host, "secret"));
    configure(&host, &server.url(), &format!("{key}, ca_file: {}", trusted.display()), "");
    run_there(&host, "repository init", &[]).ends(0);
    run_there(&host, "backup", &[]).ends(0);
    fs::write(&trusted, "no certificate").unwrap();
    let refused = run_there(&host, "list", &[]);
    assert!(refused.code != 0 && refused.err.contains("cannot use the certificates in"), "{refused:?}");
}

/// An authority, and a certificate for `localhost` that it issued.
fn certificates(dir: &Path) {
    fs::write(dir.join("ext"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    let ca =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=lab";
    let leaf =
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key -out leaf.csr -subj /CN=localhost";
    let sign = "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out leaf.pem -days 2 -extfile ext";
    for words in [ca, leaf, sign] {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
