//! Damage that `verify` finds: who is notified, how often, and when it is over.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::host::{self, Host};
use crate::mailbox::Server;

/// A host whose mails go to a real mail server.
fn mailed(server: &Server, guests: &[&str], when: &str) -> Host {
    let host = Host::new(guests);
    let smtp = format!("{{host: localhost, port: {}, security: none}}", server.port);
    let mail = format!("mail: {{to: root@example.org, from: backup@example.org, when: {when}, smtp: {smtp}}}");
    let textfile = format!("metrics: {{textfile: {}}}", host.path("metrics.prom").display());
    host.configure(&format!("{mail}\n{textfile}"), "{\"*\": {day_of_week: daily}}");
    host
}

/// Damages a file; a second call repairs it. More than one bit, because a decoder may ignore a single bit.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(path, bytes).unwrap();
}

fn newest(host: &Host, guest: &str) -> PathBuf {
    host.archives(guest).into_iter().rfind(|path| path.to_string_lossy().ends_with(".tar.zst")).unwrap()
}

fn id(archive: &Path) -> String {
    let name = archive.file_name().unwrap().to_str().unwrap();
    name.strip_suffix(".tar.zst").unwrap().rsplit('-').next().unwrap().to_owned()
}

/// Metrics of a guest's damaged restore points, after `kvmbackup metrics`.
fn counted(host: &Host, guest: &str) -> String {
    let text = host.run("metrics --stdout").ends(0).out;
    let start = format!("kvmbackup_domain_damaged_restore_points{{backup_job=\"desk\",domain=\"{guest}\"}} ");
    text.lines()
        .find_map(|line| line.strip_prefix(&start))
        .unwrap_or_else(|| panic!("{start} is not in {text}"))
        .to_owned()
}

#[test]
fn damage_is_mailed_once_per_point_and_counted_until_it_is_repaired_or_gone() {
    let server = Server::start("plain");
    let host = mailed(&server, &["a", "b"], "failure");
    host.run("backup").ends(0);
    let [a, b] = ["a", "b"].map(|guest| newest(&host, guest));
    let subjects = || -> Vec<String> { server.mails().iter().map(|mail| mail.header("Subject").to_owned()).collect() };
    assert_eq!(subjects(), ["[kvmbackup] OK 2/2 - desk"]);

    flip(&a);
    host.run("verify --all").ends(6);
    let of_a = format!("[kvmbackup] FAILED - desk - a {} is damaged", id(&a));
    assert_eq!(subjects()[1..].join("\n"), of_a);
    let mail = server.mails().pop().unwrap();
    for words in
        [a.to_str().unwrap(), "1 restore point is DAMAGED on desk", "DAMAGED RESTORE POINTS", "docs/operations.md"]
    {
        assert!(mail.text().contains(words), "{words:?} is not in {}", mail.text());
    }
    assert!(mail.html().contains(a.to_str().unwrap()), "{}", mail.html());
    let textfile = std::fs::read_to_string(host.path("metrics.prom")).unwrap();
    assert!(
        textfile.contains("damaged_restore_points{backup_job=\"desk\",domain=\"a\"} 1"),
        "verify exports it: {textfile}"
    );
    assert_eq!((counted(&host, "a").as_str(), counted(&host, "b").as_str()), ("1", "0"));

    host.run("verify --all").ends(6);
    assert_eq!(subjects().len(), 2, "the same damage is not mailed again");
    host.run("backup").ends(0);
    host.run("report").ends(0).tells(&["2 of 2 good; 1 restore point is DAMAGED"]);
    let warning = subjects().pop().unwrap();
    assert!(
        warning.starts_with("[kvmbackup] WARNING 0/2 - desk - a ") && warning.ends_with(" is damaged"),
        "{warning}"
    );
    host.run("backup").ends(0);
    assert_eq!(subjects().len(), 3, "a run with known damage is mailed like any warning: when it changes");

    // The ledger records which damage was mailed, but not which points are damaged.
    std::fs::remove_file(host.path("state/survey.json")).unwrap();
    std::fs::remove_file(host.path("state/ledger.json")).unwrap();
    assert_eq!(counted(&host, "a"), "1");
    host.run("report").ends(0).tells(&["1 restore point is DAMAGED"]).tells(&["a", "restore point", &id(&a)]);
    assert_eq!(host.run("report --format json").ends(0).json()["damaged"][0]["id"], id(&a));
    host.run("verify a --at").ends(2);
    host.run(&format!("verify a --at {}", id(&a))).ends(6);
    assert_eq!(subjects().pop().unwrap(), of_a, "after the loss of the ledger it is mailed once more");

    flip(&b);
    let before = subjects().len();
    host.run("verify --all").ends(6);
    assert_eq!(
        subjects()[before..],
        [of_a.replace(&format!(" a {}", id(&a)), &format!(" b {}", id(&b)))],
        "of the new point"
    );

    flip(&a);
    host.run("verify --all").ends(6);
    assert_eq!((counted(&host, "a").as_str(), counted(&host, "b").as_str()), ("0", "1"), "found good again");
    flip(&a);
    let before = subjects().len();
    host.run(&format!("verify a --at {}", id(&a))).ends(6);
    assert_eq!(subjects()[before..], [of_a], "damaged again");

    std::fs::rename(&a, host.path("a.aside")).unwrap();
    std::fs::remove_file(&b).unwrap();
    assert_eq!((counted(&host, "a").as_str(), counted(&host, "b").as_str()), ("0", "0"), "no longer exists");
    let report = host.run("report").ends(0);
    assert!(!report.out.contains("DAMAGED"), "{}", report.out);
    host.run("backup").ends(0);
    assert!(subjects().pop().unwrap().starts_with("[kvmbackup] OK"), "{:?}", subjects());
}

#[test]
fn damage_is_in_the_next_digest() {
    let server = Server::start("plain");
    let host = mailed(&server, &["a"], "digest");
    host.run("backup").ends(0);
    let archive = newest(&host, "a");
    flip(&archive);
    host.run("verify --all").ends(6);
    assert_eq!(server.mails().len(), 1, "one mail a day");
    let path = host.path("state/ledger.json");
    let mut ledger: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    ledger["mailed"]["last"] = "2026-01-01T00:00:00Z".into();
    std::fs::write(&path, ledger.to_string()).unwrap();
    host.run("backup").ends(0);
    let mails = server.mails();
    assert_eq!(mails[1].header("Subject"), format!("[kvmbackup] FAILED - desk - a {} is damaged", id(&archive)));
    assert!(mails[1].text().contains("DAMAGED RESTORE POINTS"), "{}", mails[1].text());
}

#[test]
fn damage_is_mailed_with_an_unreadable_ledger_and_waits_while_no_server_answers() {
    let mut server = Server::start("plain");
    let host = mailed(&server, &["a"], "failure");
    host.run("backup").ends(0);
    let archive = newest(&host, "a");
    flip(&archive);
    let ledger = host.path("state/ledger.json");
    std::fs::rename(&ledger, host.path("ledger.aside")).unwrap();
    std::fs::create_dir(&ledger).unwrap();
    let run = host.run("verify --all").ends(6);
    assert!(run.err.contains("ledger.json"), "{}", run.err);
    let subject = format!("[kvmbackup] FAILED - desk - a {} is damaged", id(&archive));
    assert_eq!(server.mails().pop().unwrap().header("Subject"), subject);
    std::fs::remove_dir(&ledger).unwrap();
    std::fs::rename(host.path("ledger.aside"), &ledger).unwrap();

    server.stop();
    host.run("verify --all").ends(6);
    assert_eq!(std::fs::read_dir(host.path("state/mail-spool")).unwrap().count(), 1);
}

/// A process that keeps the file until it is removed, or waits for a lock.
struct Check(Child);

impl Check {
    fn start(host: &Host, words: &str, fault: Option<&str>) -> Check {
        let config = host.path("config.yml");
        let global = ["--config", config.to_str().unwrap(), "--host", host::NAME];
        let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
        command.args(words.split_whitespace()).args(global);
        if let Some(fault) = fault {
            command.env("KVMBACKUP_FAULT", fault);
        }
        Check(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Whether it waits for a lock that another process holds, proc(5), "/proc/locks".
    fn waits(&self) -> bool {
        let pid = self.0.id().to_string();
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.split_whitespace().any(|word| word == pid))
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn concurrent_checks_lose_no_record() {
    let host = Host::new(&["a", "b"]);
    host.run("backup").ends(0);
    let held = host.path("held");
    let mut first = Check::start(&host, "verify a", Some(&format!("VerifiedWrite:hold={}", held.display())));
    wait_until("the first check", || held.exists());
    let mut second = Check::start(&host, "verify b", None);
    wait_until("the second check", || second.waits() || second.has_ended());
    std::fs::remove_file(&held).unwrap();
    for check in [&mut first, &mut second] {
        assert!(check.0.wait().unwrap().success());
    }
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(host.path("state/verified.json")).unwrap()).unwrap();
    for guest in ["a", "b"] {
        assert_eq!(record["domains"][guest].as_object().map_or(0, |points| points.len()), 1, "{guest}: {record:#}");
    }
}
