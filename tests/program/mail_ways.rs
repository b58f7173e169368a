//! Mail transports with a real mail server: TLS from the first byte, sources of passwords, refusing servers, and their
//! checks by `check`.

use crate::host;
use std::os::unix::fs::PermissionsExt;

use crate::host::{Host, Run};
use crate::mailbox::Server;

const ALL: &str = "{\"*\": {day_of_week: daily}}";
const PASSWORD: &str = "s3cret pass";

/// A host whose runs are mailed by this server; the source of the password, and more keys of `mail`.
fn mailed_by(server: &Server, host: &Host, password: &str, mail: &str) {
    let tls = if server.mode == "tls" { "tls" } else { "starttls" };
    let smtp = format!(
        "{{host: localhost, port: {}, security: {tls}, ca_file: {}, username: backup, {password}}}",
        server.port,
        server.ca().display()
    );
    host.configure(
        &format!("mail: {{to: [ops@example.org, root@example.org], from: backup@example.org, {mail} smtp: {smtp}}}"),
        ALL,
    );
}

/// The password in a file of this mode.
fn in_a_file(host: &Host, text: &str, mode: u32) -> String {
    let path = host.path("password");
    std::fs::write(&path, format!("{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    format!("password_file: {}", path.display())
}

/// Runs the program with one additional variable.
fn with(host: &Host, name: &str, value: &str, words: &str) -> Run {
    let config = host.path("config.yml");
    let global = ["--config", config.to_str().unwrap(), "--host", host::NAME];
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    host.finish(command.env(name, value).args(words.split_whitespace()).args(global))
}

#[track_caller]
fn keeps_the_secret(run: Run) -> Run {
    assert!(!run.out.contains("s3cret") && !run.err.contains("s3cret"), "{run:?}");
    run
}

fn in_spool(host: &Host, ending: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(host.path("state/mail-spool")) else { return 0 };
    entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|own| own == ending)).count()
}

#[test]
fn implicit_tls_and_every_source_of_a_password_work() {
    let (server, host) = (Server::start("tls"), Host::new(&["a"]));
    mailed_by(&server, &host, &in_a_file(&host, PASSWORD, 0o600), "when: always,");
    host.run("backup").ends(0);
    mailed_by(&server, &host, "password_env: MAIL_PASSWORD", "when: always,");
    keeps_the_secret(with(&host, "MAIL_PASSWORD", PASSWORD, "--verbose backup")).ends(0);
    mailed_by(&server, &host, "password_credential: mail", "when: always,");
    let credentials = host.path("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("mail"), format!("{PASSWORD}\n")).unwrap();
    with(&host, "CREDENTIALS_DIRECTORY", credentials.to_str().unwrap(), "backup").ends(0);
    // Files with Windows line endings.
    for end in ["\r\n", "\r"] {
        mailed_by(&server, &host, &in_a_file(&host, &format!("{PASSWORD}{end}"), 0o600), "when: always,");
        host.run("backup").ends(0);
    }
    assert_eq!(server.mails().len(), 5);
    assert_eq!(server.log().matches("good=True").count(), 5, "{}", server.log());
}

#[test]
fn server_that_supports_only_auth_login_accepts_the_mail() {
    let (server, host) = (Server::start("login"), Host::new(&["a"]));
    mailed_by(&server, &host, &in_a_file(&host, PASSWORD, 0o600), "");
    host.run("backup").ends(0);
    assert_eq!((server.mails().len(), server.log().matches("auth tls=True good=True").count()), (1, 1));
}

#[test]
fn wrong_or_missing_password_is_reported_and_never_shown() {
    let (server, host) = (Server::start("tls"), Host::new(&["a"]));
    mailed_by(&server, &host, &in_a_file(&host, "s3cret but wrong", 0o600), "");
    let run = keeps_the_secret(host.run("backup")).ends(7);
    assert!(run.err.contains("535") && run.err.contains("hint: "), "{}", run.err);
    for password in ["password_env: NO_SUCH_VARIABLE", "password_credential: nosuch", "password_file: /nowhere/at/all"]
    {
        mailed_by(&server, &host, password, "");
        let run = keeps_the_secret(host.run("backup")).ends(7);
        assert!(run.err.contains("cannot read the password for the mail server"), "{}", run.err);
    }
    assert_eq!(in_spool(&host, "eml"), 1, "the weekly mail; a refused login does not reject the mail");
    assert!(server.mails().is_empty());
}

#[test]
fn temporarily_rejected_mail_is_retried_and_then_kept() {
    let (soon, host) = (Server::start("soon"), Host::new(&["a"]));
    mailed_by(&soon, &host, &in_a_file(&host, PASSWORD, 0o600), "when: always,");
    host.run("backup").ends(0);
    assert_eq!((soon.mails().len(), soon.log().matches("data ").count()), (1, 3));
    let busy = Server::start("busy");
    mailed_by(&busy, &host, &in_a_file(&host, PASSWORD, 0o600), "when: always,");
    let run = host.run("backup").ends(7).tells(&["1 of 1 good"]);
    assert!(run.err.contains("451") || run.err.contains("not now"), "{}", run.err);
    assert_eq!((busy.log().matches("data ").count(), in_spool(&host, "eml")), (3, 1));
}

#[test]
fn permanently_rejected_waiting_mail_is_reported_once_and_blocks_nothing() {
    let host = Host::new(&["a", "b"]);
    let mut gone = Server::start("accept");
    let password = in_a_file(&host, PASSWORD, 0o600);
    mailed_by(&gone, &host, &password, "when: always,");
    gone.stop();
    std::fs::rename(host.image("b"), host.path("aside")).unwrap();
    host.run("backup").ends(1);
    std::fs::rename(host.path("aside"), host.image("b")).unwrap();
    host.run("backup").ends(7);
    assert_eq!(in_spool(&host, "eml"), 2);
    let server = Server::start("picky");
    mailed_by(&server, &host, &password, "when: always,");
    let run = host.run("backup").ends(7);
    assert!(run.err.contains("permanently rejected") && run.err.contains("not wanted here"), "{}", run.err);
    assert!(run.err.contains("hint: ") && run.out.is_empty(), "{run:?}");
    assert_eq!((server.mails().len(), in_spool(&host, "eml"), in_spool(&host, "refused")), (2, 0, 1));
    let run = host.run("backup").ends(0);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""), "it was reported");
    assert_eq!(server.mails().len(), 3);
}

#[test]
fn check_tests_the_mail_transport_and_sends_a_mail_on_request() {
    let (server, host) = (Server::start("accept"), Host::new(&["a"]));
    host.run("check").ends(0).tells(&["ok", "mail", "not configured"]);
    host.run("check --send-test").ends(1).tells(&["PROBLEM", "mail", "no `mail`"]);
    mailed_by(&server, &host, &in_a_file(&host, PASSWORD, 0o600), "");
    let before = host.everything();
    host.run("check").ends(0).tells(&["ok", "mail server localhost", "accepts the login"]);
    assert!(server.mails().is_empty() && host.everything() == before, "nothing is sent, nothing changed");
    host.run("check --send-test").ends(0).tells(&["ok", "test email", "ops@example.org, root@example.org"]);
    let [mail] = server.mails().try_into().unwrap();
    assert_eq!(mail.header("Subject"), "[kvmbackup] TEST - desk");
    assert_eq!(mail.header("X-Kvmbackup-Result"), "TEST");
    assert!(mail.text().contains("check --send-test") && mail.html().contains("check --send-test"));
    assert!(host.everything() == before, "a test is not a run");
}

#[test]
fn check_reports_faults_of_the_mail_settings_with_commands() {
    let (mut server, host) = (Server::start("accept"), Host::new(&["a"]));
    mailed_by(&server, &host, &in_a_file(&host, "s3cret but wrong", 0o644), "");
    let run = keeps_the_secret(host.run("check")).ends(1).tells(&["PROBLEM", "mail server localhost", "535"]);
    let run = run.tells(&["WARNING", "password ", "can read it"]).tells(&["hint: ", "chmod 600 ", "password"]);
    run.tells(&["hint: ", " check --send-test"]);
    mailed_by(&server, &host, "password_credential: mail", "");
    host.run("check").ends(0).tells(&["WARNING", "mail server", "only to the unit"]).tells(&["hint: ", "systemd-run"]);
    mailed_by(&server, &host, &in_a_file(&host, PASSWORD, 0o600), "");
    server.stop();
    host.run("check --offline").ends(0);
    host.run("check --send-test").ends(1).tells(&["PROBLEM", "test email", "localhost"]);
    host.run("backup").ends(7);
    host.run("check").ends(1).tells(&["PROBLEM", "mail server"]).tells(&["WARNING", "1 could not be sent yet"]);
    host.configure("mail: {to: root, sendmail: /nowhere/sendmail}", ALL);
    host.run("check").ends(1).tells(&["PROBLEM", "/nowhere/sendmail", "No such file"]);
    host.configure(&format!("mail: {{to: root, sendmail: {}}}", host.path("password").display()), ALL);
    host.run("check").ends(1).tells(&["PROBLEM", "cannot run", "password"]);
}

#[test]
fn check_renders_the_templates_without_a_server() {
    let host = Host::new(&["a"]);
    let templates = host.path("templates");
    host.configure(&format!("mail: {{to: root, templates: {}, sendmail: /bin/true}}", templates.display()), ALL);
    host.run("check --offline").ends(0).tells(&["WARNING", "mail templates", "No such file"]);
    std::fs::create_dir(&templates).unwrap();
    std::fs::write(templates.join("report.txt.hbs"), "{{status}}{{#each domains}}{{name}}{{/each}}").unwrap();
    host.run("check --offline").ends(0).tells(&["ok", "mail templates", "all render"]);
    // The parts for failures are rendered, too.
    std::fs::write(templates.join("report.html.hbs"), "{{#each domains}}{{#if error}}{{nosuch}}{{/if}}{{/each}}")
        .unwrap();
    host.run("check --offline").ends(0).tells(&["WARNING", "mail templates", "report.html.hbs", "nosuch"]);
    host.run("check").ends(0).tells(&["ok", "/bin/true", "executable"]);
}

/// An attacker on the network cannot read TLS, but can inject bytes after the answer to STARTTLS that starts it.
#[test]
fn answers_in_plain_text_before_tls_deliver_nothing() {
    let host = Host::new(&["a"]);
    for mode in ["inject", "inject-line"] {
        let server = Server::start(mode);
        mailed_by(&server, &host, &in_a_file(&host, PASSWORD, 0o600), "when: always,");
        let run = host.run("backup").ends(7).tells(&["1 of 1 good"]);
        assert!(run.err.contains("before TLS") && run.err.contains("hint: "), "{mode}: {}", run.err);
        assert!(run.err.contains("`security: tls`"), "{mode}: {}", run.err);
        assert_eq!(server.log(), "", "{mode}: neither login nor mail go to a server with injected answers");
    }
    assert_eq!(in_spool(&host, "eml"), 2);
    let server = Server::start("accept");
    mailed_by(&server, &host, &in_a_file(&host, PASSWORD, 0o600), "when: always,");
    host.run("backup").ends(0);
    assert_eq!((server.mails().len(), in_spool(&host, "eml")), (3, 0));
}
