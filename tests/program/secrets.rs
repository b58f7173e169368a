//! Secrets of the configuration and of definitions are in nothing that a run prints, writes, serves or mails, even with
//! all logs. Only the archive contains those of the definitions; `cli_private.rs` tests that.

use crate::host;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::host::Host;
use crate::mailbox::Server;
use crate::serving::Exporter;

/// The password of the mail server. Below in base64, as SMTP sends it: alone, and after the name.
const PASSWORD: &str = "s3cret pass";
/// Secrets in the definition.
const OF_GUEST: [&str; 2] = ["hunter2V", "hunter2S"];

/// Panics if a text contains a secret.
#[track_caller]
fn assert_holds_none(what: &str, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    for secret in [PASSWORD, "czNjcmV0IHBhc3M", "AGJhY2t1cABzM2NyZXQgcGFzcw"].iter().chain(&OF_GUEST) {
        let holds = text.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!holds, "{what} contains {secret}:\n{}", String::from_utf8_lossy(text));
    }
}

/// A host with one guest that has passwords and one that cannot be saved; a hook prints its environment, and fails.
fn scene() -> Host {
    let mut host = Host::new(&[]);
    let [vnc, spice] = OF_GUEST;
    let graphics = |kind: &str, secret: &str| format!("<graphics type='{kind}' port='-1' passwd='{secret}'/>");
    host.add("a", &(graphics("vnc", vnc) + &graphics("spice", spice)));
    host.add("b", "");
    std::fs::remove_file(host.image("b")).unwrap();
    std::fs::create_dir(host.path("textfiles")).unwrap();
    host.script("hook", "env\nenv >&2\nexit 1");
    host
}

/// Mailed by this server; the source of the password.
fn configure(host: &Host, server: &Server, password: &str) {
    let smtp = format!(
        "{{host: localhost, port: {}, ca_file: {}, username: backup, {password}}}",
        server.port,
        server.ca().display()
    );
    let mail = format!("mail: {{to: root@example.org, from: backup@example.org, when: always, smtp: {smtp}}}");
    let textfile = format!("metrics: {{textfile: {}}}", host.path("textfiles/kvmbackup.prom").display());
    let hooks = format!(
        "[{{name: tells, phase: [pre-domain, post-domain], command: [{}], on_error: warn}}]",
        host.path("hook").display()
    );
    host.configure(&format!("{mail}\n{textfile}"), &format!("{{\"*\": {{day_of_week: daily, hooks: {hooks}}}}}"));
}

/// Output of the program, with all of its logs, with the password in each of the places.
#[track_caller]
fn says(host: &Host, words: &str) -> host::Run {
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.args(words.split(' ')).args(["--host", host::NAME, "-c"]).arg(host.path("config.yml"));
    command.env("KVMBACKUP_LOG", "trace").env("MAIL_PASSWORD", PASSWORD);
    let run = host.finish(command.env("CREDENTIALS_DIRECTORY", host.path("credentials")));
    assert_holds_none(&format!("the output of {words}"), &run.out);
    assert_holds_none(&format!("the log of {words}"), &run.err);
    run
}

/// Panics if a textfile or a file in the state directory contains a secret. Archives are not checked, because they may.
fn assert_files_hold_none(host: &Host) {
    let folders = ["state", "textfiles"].map(|folder| host.path(folder));
    let is_ours = |path: &Path| folders.iter().any(|folder| path.starts_with(folder));
    let files: Vec<_> = host.everything().into_iter().filter(|(path, _)| is_ours(path)).collect();
    for name in ["last-report.json", "ledger.json", "survey.json", "kvmbackup.prom"] {
        assert!(files.iter().any(|(path, _)| path.ends_with(name)), "{name} does not exist");
    }
    for (path, (_, _, _, contents)) in files {
        assert_holds_none(path.to_str().unwrap(), contents);
    }
}

#[test]
fn no_secret_is_in_a_log_a_report_a_metric_a_mail_or_a_page() {
    let host = scene();
    let (takes, refuses) = (Server::start("accept"), Server::start("refuse"));
    std::fs::create_dir(host.path("credentials")).unwrap();
    for path in ["password", "credentials/mail"] {
        std::fs::write(host.path(path), format!("{PASSWORD}\n")).unwrap();
        std::fs::set_permissions(host.path(path), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let file = format!("password_file: {}", host.path("password").display());
    let places = [file.as_str(), "password_env: MAIL_PASSWORD", "password_credential: mail"];
    for place in places {
        configure(&host, &takes, place);
        says(&host, "-vvv backup").ends(1);
        assert_files_hold_none(&host);
        // A mail that no server accepts waits in the spool.
        configure(&host, &refuses, place);
        says(&host, "-vvv backup --force --json").ends(1);
        assert_files_hold_none(&host);
    }
    let log = takes.log();
    assert_eq!(log.matches("auth ").count(), log.matches("good=True").count(), "{log}");
    assert_ne!(std::fs::read_dir(host.path("state/mail-spool")).unwrap().count(), 0, "nothing waits");
    let mails = takes.mails();
    assert!(
        mails.len() >= places.len() && mails[0].text().contains("KVMBACKUP_PHASE="),
        "it contains the output of the hook"
    );
    for mail in mails {
        assert_holds_none("the text of a mail", mail.text());
        assert_holds_none("the HTML of a mail", mail.html());
        assert_holds_none("a mail as it is", format!("{mail:?}"));
    }
    let archive = host.archives("a").remove(0);
    let definition = host::run("tar", &["--zstd", "-xOf", archive.to_str().unwrap(), "domain-inactive.xml"]);
    assert!(OF_GUEST.iter().all(|secret| definition.contains(secret)), "there was no secret to leak: {definition}");

    for words in
        ["report", "report --format json", "list", "list --json", "metrics", "verify", "backup --dry-run --json"]
    {
        says(&host, words);
    }
    says(&host, "check --json");
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.args(["exporter", "--listen", "127.0.0.1:0", "--host", host::NAME, "-c"]).arg(host.path("config.yml"));
    let exporter = Exporter::spawn(command.env("MAIL_PASSWORD", PASSWORD));
    for path in ["/metrics", "/"] {
        let page = exporter.get(path);
        assert_eq!(page.status(), 200);
        assert_holds_none(path, page.head + &page.body);
    }
}
