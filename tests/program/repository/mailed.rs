//! Mails of `kvmbackup maintain`, by a mail server with TLS and login.

use std::fs;

use serde_json::Value;

use super::{configure_with, host};
use crate::host::{Host, run};
use crate::mailbox::{Mail, Server};

const DAILY: &str = "{\"*\": {day_of_week: daily}}";

/// Makes this server receive the mails; more keys of the repository, and of `mail`.
fn mailed_by(server: &Server, host: &Host, keys: &str, mail: &str) {
    configure_with(host, keys, DAILY);
    let password = host.path("mail-password");
    fs::write(&password, "s3cret pass\n").unwrap();
    run("chmod", &["600", password.to_str().unwrap()]);
    let login = format!("username: backup, password_file: {}, ca_file: {}", password.display(), server.ca().display());
    let smtp = format!("{{host: localhost, port: {}, {login}}}", server.port);
    let config = fs::read_to_string(host.path("config.yml")).unwrap();
    let mail = format!("  mail: {{to: ops@example.org, from: backup@example.org, {mail}smtp: {smtp}}}\n");
    host.write_config(&format!("{config}{mail}"));
}

fn subjects(server: &Server) -> Vec<String> {
    let subject = |mail: &Mail| mail.header("Subject").strip_prefix("[kvmbackup] ").unwrap().to_owned();
    server.mails().iter().map(subject).collect()
}

/// A host with one restore point, whose good backup was mailed.
fn backed_up(server: &Server, keys: &str, mail: &str) -> Host {
    let host = host(&["a"], DAILY);
    mailed_by(server, &host, keys, mail);
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    assert_eq!(subjects(server), ["OK 1/1 - desk"]);
    host
}

/// Removes the largest pack, and returns its contents.
fn lose_a_pack(host: &Host) -> (std::path::PathBuf, Vec<u8>) {
    let listed = run("find", &[host.path("repository/data").to_str().unwrap(), "-type", "f", "-printf", "%s %p\n"]);
    let packs = listed.lines().map(|line| line.split_once(' ').unwrap());
    let (_, path) = packs.max_by_key(|(size, _)| size.parse::<u64>().unwrap()).unwrap();
    let bytes = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    (path.into(), bytes)
}

#[test]
fn failure_damage_and_recovery_are_mailed_with_different_subjects() {
    let server = Server::start("accept");
    let host = backed_up(&server, ", check_data: 0%", "");
    host.run("-q maintain").ends(0);
    assert_eq!(server.mails().len(), 1, "a good maintenance is not news");

    let password = fs::read(host.path("password")).unwrap();
    fs::write(host.path("password"), "another").unwrap();
    host.run("-q maintain").ends(5);
    fs::write(host.path("password"), password).unwrap();
    let (path, pack) = lose_a_pack(&host);
    host.run("-q maintain").ends(6);
    // A good backup does not make the maintenance good.
    fs::write(&path, pack).unwrap();
    host.run("backup --force").ends(0);
    host.run("-q maintain").ends(0);
    host.run("-q maintain").ends(0);
    let expected = [
        "OK 1/1 - desk",
        "FAILED - desk - maintenance failed",
        "FAILED - desk - the repository is damaged",
        "OK - desk - maintenance",
    ];
    assert_eq!(subjects(&server), expected);
    let mails = server.mails();
    let repository = host.path("repository").display().to_string();
    for (mail, words) in mails[1..].iter().zip([
        &["maintenance FAILED on desk", "wrong password", "hint", "kvmbackup"][..],
        &["maintenance FAILED on desk", "checked: the structure", "the repository is damaged", "verify --all"],
        &["maintenance completed on desk", "pruned: freed", "no damage"],
    ]) {
        for words in words.iter().chain([&repository.as_str(), &"repository check"]) {
            assert!(mail.text().contains(words), "{words:?} is not in {}", mail.text());
        }
        for words in &words[1..] {
            assert!(mail.html().to_lowercase().contains(&words.to_lowercase()), "{words:?} is not in {}", mail.html());
        }
        assert!(!mail.text().contains("nothing is due") && !mail.text().contains("s3cret"), "{}", mail.text());
    }
    assert_eq!(mails[2].header("X-Kvmbackup-Result"), "FAILED");
    // The next mail of a run lists the maintenances that were not mailed.
    fs::remove_file(host.image("a")).unwrap();
    host.run("backup --force").ends(1);
    let last = &server.mails()[4];
    assert_eq!(last.text().matches("[kvmbackup] OK - desk - maintenance").count(), 2, "{}", last.text());
}

#[test]
fn digest_lists_maintenances_and_only_a_failed_one_has_its_own_mail() {
    let server = Server::start("accept");
    let host = backed_up(&server, "", "when: digest, ");
    host.run("maintain").ends(0);
    let password = fs::read(host.path("password")).unwrap();
    fs::write(host.path("password"), "another").unwrap();
    host.run("maintain").ends(5);
    host.run("maintain").ends(5);
    fs::write(host.path("password"), password).unwrap();
    assert_eq!(subjects(&server)[1..], ["FAILED - desk - maintenance failed"], "one a day");
    let path = host.path("state/ledger.json");
    let mut ledger: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    ledger["mailed"]["last"] = "2026-01-01T00:00:00Z".into();
    fs::write(&path, ledger.to_string()).unwrap();
    host.run("backup --force").ends(0);
    let digest = &server.mails()[2];
    assert_eq!(digest.header("Subject"), "[kvmbackup] FAILED - desk - maintenance failed");
    assert!(digest.text().contains("[kvmbackup] OK - desk - maintenance"), "{}", digest.text());
}

#[test]
fn maintenance_that_cannot_be_mailed_waits_in_the_spool_and_keeps_its_exit_code() {
    let mut gone = Server::start("accept");
    let host = backed_up(&gone, "", "when: always, ");
    gone.stop();
    let failed = host.run("maintain").ends(7).tells(&["checked:", "no damage"]);
    assert!(failed.err.contains("did not accept the email"), "{failed:?}");
    fs::write(host.path("password"), "another").unwrap();
    host.run("maintain").ends(5);
    let server = Server::start("accept");
    mailed_by(&server, &host, "", "");
    fs::remove_dir_all(host.path("repository")).unwrap();
    host.run("maintain").ends(5);
    let expected =
        ["OK - desk - maintenance", "FAILED - desk - maintenance failed", "FAILED - desk - maintenance failed"];
    assert_eq!(subjects(&server), expected, "oldest first");
}

#[test]
fn maintenance_with_an_invalid_configuration_is_mailed() {
    let server = Server::start("accept");
    let host = backed_up(&server, "", "");
    let config = fs::read_to_string(host.path("config.yml")).unwrap();
    host.write_config(&config.replace("cache_dir", "cash_dir"));
    host.run("maintain").ends(2);
    assert_eq!(subjects(&server)[1..], ["FAILED - desk - maintenance failed"]);
    assert!(server.mails()[1].text().contains("cash_dir: unknown key"), "{}", server.mails()[1].text());
}
