//! After which runs a mail is sent, and its contents, for interrupted runs, passing days, and templates of the
//! operator.

use crate::host;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::mailbox::{Mail, parse};

/// A host whose runs are mailed by a program that keeps the mail; more keys of `mail`, and of its domains.
fn mailed(host: &Host, mail: &str, domains: &str) {
    let program = host.script("sendmail", &format!("cat >{}", host.path("mail.eml").display()));
    let domains = format!("{{\"*\": {{day_of_week: daily{domains}}}}}");
    host.configure(&format!("mail: {{to: root, sendmail: {program:?}{mail}}}"), &domains);
}

fn taken(host: &Host) -> Option<Mail> {
    let bytes = std::fs::read(host.path("mail.eml")).ok()?;
    std::fs::remove_file(host.path("mail.eml")).unwrap();
    Some(parse(&bytes))
}

#[test]
fn run_ended_by_a_signal_is_mailed() {
    let host = Host::new(&["a"]);
    let begun = host.path("begun");
    let hook = host.script("hook", &format!("touch {}; exec sleep 600", begun.display()));
    mailed(&host, "", &format!(", hooks: [{{name: slow, phase: pre-domain, command: [{hook:?}], timeout: 1h}}]"));
    let config = host.path("config.yml");
    let words = ["backup", "--config", config.to_str().unwrap(), "--host", host::NAME];
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    let mut run = command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !begun.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").arg(run.id().to_string()).status().unwrap().success());
    assert_eq!(run.wait().unwrap().code(), Some(143));
    let mail = taken(&host).unwrap();
    assert!(mail.header("Subject").starts_with("[kvmbackup] ABORTED"), "{}", mail.header("Subject"));
    assert_eq!(mail.header("X-Kvmbackup-Result"), "ABORTED");
}

#[test]
fn digest_is_sent_once_a_day_with_the_worst_status_in_its_subject() {
    let host = Host::new(&["a", "b"]);
    mailed(&host, ", when: digest", "");
    host.run("backup").ends(0);
    assert_eq!(taken(&host).unwrap().header("Subject"), "[kvmbackup] OK 2/2 - desk");
    std::fs::rename(host.image("b"), host.path("aside")).unwrap();
    host.run("backup").ends(1);
    std::fs::rename(host.path("aside"), host.image("b")).unwrap();
    assert!(taken(&host).is_none(), "one a day");
    let path = host.path("state/ledger.json");
    let mut ledger: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    ledger["mailed"]["last"] = "2026-01-01T00:00:00Z".into();
    std::fs::write(&path, ledger.to_string()).unwrap();
    host.run("backup").ends(0);
    let mail = taken(&host).unwrap();
    assert_eq!(mail.header("Subject"), "[kvmbackup] FAILED 1/2 - desk - b");
    assert!(mail.text().contains("RUNS SINCE THE LAST MAIL") && mail.text().contains("2 of 2 good"), "{}", mail.text());
}

#[test]
fn templates_of_the_operator_are_used_and_invalid_ones_are_reported_and_replaced() {
    let host = Host::new(&["a"]);
    let folder = host.path("templates");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("report.txt.hbs"), "{{status}}: {{#each domains}}{{name}} {{stored_bytes}}{{/each}}")
        .unwrap();
    mailed(&host, &format!(", when: always, templates: {}", folder.display()), "");
    let run = host.run("backup").ends(0);
    assert!(run.err.is_empty(), "{}", run.err);
    let mail = taken(&host).unwrap();
    assert!(mail.text().starts_with("OK: a ") && mail.html().contains("OK 1 of 1 on desk"), "{}", mail.text());
    std::fs::write(folder.join("report.txt.hbs"), "{{nosuch}}").unwrap();
    let run = host.run("backup").ends(0);
    assert!(run.err.contains("report.txt.hbs") && run.err.contains("using the built-in one"), "{}", run.err);
    assert!(taken(&host).unwrap().text().starts_with("kvmbackup: 1 of 1 good on desk"));
}
