//! Mails of real runs: by a mail server with TLS and login, by a program in place of `sendmail`, and the handling of
//! mails that cannot be sent.

use crate::browser::{self, Seen};

use crate::host::{Host, Run};
use crate::mailbox::{Mail, Server, parse};

const ALL: &str = "{\"*\": {day_of_week: daily}}";

/// A host whose runs are mailed by this server; more keys of `smtp`, and of `mail`.
fn mailed_by(server: &Server, host: &Host, smtp: &str, mail: &str) {
    let password = host.path("password");
    std::fs::write(&password, "s3cret pass\n").unwrap();
    let login = format!("username: backup, password_file: {}", password.display());
    let login =
        if smtp.contains("none") { String::new() } else { format!(", {login}, ca_file: {}", server.ca().display()) };
    let keys = format!(
        "mail: {{to: [ops@example.org, root@example.org], from: backup@example.org, {mail} smtp: {{host: localhost, port: {}{login}{smtp}}}}}",
        server.port
    );
    host.configure(&keys, ALL);
}

/// A host whose runs are mailed by a program that keeps what it gets.
fn mailed_by_program(host: &Host, ends: u8, mail: &str) {
    let script = format!(
        "read first; {{ echo \"$first\"; cat; }} >>{0}/mail.eml; echo \"$@\" >{0}/words; echo no room >&2; exit {ends}",
        host.path("").display()
    );
    let program = host.script("sendmail", &script);
    host.configure(&format!("mail: {{to: root, {mail} sendmail: {}}}", program.display()), ALL);
}

fn taken(host: &Host) -> Option<Mail> {
    let bytes = std::fs::read(host.path("mail.eml")).ok()?;
    std::fs::remove_file(host.path("mail.eml")).unwrap();
    Some(parse(&bytes))
}

fn spooled(host: &Host) -> usize {
    std::fs::read_dir(host.path("state/mail-spool")).map_or(0, Iterator::count)
}

fn silent(run: Run) {
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""), "cron gets no output");
}

fn ledger(host: &Host) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(host.path("state/ledger.json")).unwrap()).unwrap()
}

#[test]
fn server_with_starttls_and_login_accepts_the_mail() {
    let (server, host) = (Server::start("accept"), Host::new(&["a", "b"]));
    mailed_by(&server, &host, "", "");
    silent(host.run("backup").ends(0));
    let log = server.log();
    assert!(
        log.contains("auth tls=True good=True") && log.contains("data tls=True auth=True to=ops@example.org,root@"),
        "{log}"
    );
    let [mail] = server.mails().try_into().unwrap();
    assert_eq!(mail.header("Subject"), "[kvmbackup] OK 2/2 - desk");
    assert_eq!((mail.header("Auto-Submitted"), mail.header("X-Kvmbackup-Result")), ("auto-generated", "OK"));
    for name in ["Message-ID", "Date", "List-Id", "From", "To", "MIME-Version"] {
        assert!(!mail.header(name).is_empty());
    }
    assert!(
        mail.text().starts_with("kvmbackup: 2 of 2 good on desk\n") && mail.text().contains("\n-- \nhost "),
        "{}",
        mail.text()
    );
    assert!(mail.html().contains("OK 2 of 2 on desk"));
    assert!(ledger(&host)["reports"]["smtp"]["last_success"].is_string());
    // It was reported once, so the next good run prints nothing; it is reported again later.
    silent(host.run("backup").ends(0));
    assert_eq!(server.mails().len(), 1);
    std::fs::remove_file(host.image("b")).unwrap();
    silent(host.run("backup").ends(1));
    let mails = server.mails();
    assert_eq!(mails[1].header("Subject"), "[kvmbackup] FAILED 1/2 - desk - b");
    assert!(
        mails[1].text().contains("RUNS SINCE THE LAST MAIL") && mails[1].text().contains("[kvmbackup] OK 2/2 - desk")
    );
}

#[test]
fn rejected_mail_is_reported_to_cron_and_kept() {
    let (server, host) = (Server::start("refuse"), Host::new(&["a"]));
    mailed_by(&server, &host, "", "");
    let run = host.run("backup").ends(7).tells(&["1 of 1 good"]);
    assert!(
        run.err.contains("did not accept the email")
            && run.err.contains("not wanted here")
            && run.err.contains("hint: "),
        "{}",
        run.err
    );
    assert!(!run.err.contains("s3cret") && !run.out.contains("s3cret"));
    assert_eq!(server.log().matches("data ").count(), 1, "a permanently rejected mail is not sent again");
    assert_eq!(spooled(&host), 1);
    assert_eq!(ledger(&host)["reports"]["smtp"]["failures"], 1);
}

#[test]
fn mail_without_a_reachable_server_is_sent_by_the_next_run() {
    let host = Host::new(&["a"]);
    let mut gone = Server::start("accept");
    mailed_by(&gone, &host, "", "");
    gone.stop();
    let run = host.run("backup").ends(7).tells(&["1 of 1 good"]);
    assert!(run.err.contains("did not accept the email"), "{}", run.err);
    assert_eq!(run.err.matches("Connection refused").count(), 1, "{}", run.err);
    assert_eq!(spooled(&host), 1);
    for mode in host.modes("state/mail-spool").into_iter().filter(|(path, _)| path.extension().is_some()) {
        assert_eq!(mode.1, 0o600);
    }
    let server = Server::start("accept");
    mailed_by(&server, &host, "", "when: always,");
    silent(host.run("backup").ends(0));
    assert_eq!((server.mails().len(), spooled(&host)), (2, 0));
}

#[test]
fn slow_server_times_out() {
    let (server, host) = (Server::start("slow"), Host::new(&["a"]));
    mailed_by(&server, &host, ", timeout: 1s", "");
    let run = host.run("backup").ends(7).tells(&["1 of 1 good"]);
    assert!(run.err.contains("did not accept the email within ") && run.err.contains("hint: "), "{}", run.err);
    assert_eq!(spooled(&host), 1);
}

#[test]
fn server_that_disconnects_after_the_mail_gets_no_copies() {
    let (server, host) = (Server::start("lost"), Host::new(&["a"]));
    mailed_by(&server, &host, "", "");
    let run = host.run("backup").ends(7).tells(&["1 of 1 good"]);
    assert!(run.err.contains("may have accepted it") && run.err.contains("the next run sends it again"), "{}", run.err);
    assert_eq!((server.log().matches("data ").count(), spooled(&host)), (1, 1));
}

#[test]
fn password_is_not_sent_without_tls_or_to_an_unknown_certificate() {
    let (plain, host) = (Server::start("plain"), Host::new(&["a"]));
    mailed_by(&plain, &host, "", "");
    host.run("backup").ends(7);
    assert_eq!(plain.log(), "");
    let (other, server) = (Server::start("accept"), Server::start("accept"));
    mailed_by(&server, &host, "", "");
    let config = std::fs::read_to_string(host.path("config.yml")).unwrap();
    host.write_config(&config.replace(server.ca().to_str().unwrap(), other.ca().to_str().unwrap()));
    let run = host.run("backup").ends(7);
    assert!(run.err.contains("hint: ") && server.log().is_empty(), "{}", run.err);
}

#[test]
fn local_program_accepts_the_mail() {
    let host = Host::new(&["a"]);
    mailed_by_program(&host, 0, "");
    silent(host.run("backup").ends(0));
    assert_eq!(std::fs::read_to_string(host.path("words")).unwrap(), "-i -t\n");
    let mail = taken(&host).unwrap();
    assert!(mail.header("To") == "root");
    host.run("report --send").ends(0).tells(&["was sent"]);
    assert!(taken(&host).is_some());
    host.run(&format!("report --render-to {}", host.path("x.eml").display())).ends(0);
    assert_eq!(parse(&std::fs::read(host.path("x.eml")).unwrap()).header("Subject"), mail.header("Subject"));
    assert!(host.run("report --format html").ends(0).out.starts_with("<!DOCTYPE html>"));
    mailed_by_program(&host, 75, "when: always,");
    let run = host.run("backup").ends(7).tells(&["1 of 1 good"]);
    assert!(run.err.contains("no room") && run.err.contains("hint: "), "{}", run.err);
    assert_eq!(spooled(&host), 1);
}

#[test]
fn run_that_cannot_start_is_mailed() {
    let host = Host::new(&["a"]);
    mailed_by_program(&host, 0, "");
    silent(host.run("backup").ends(0));
    taken(&host).unwrap();
    let good = std::fs::read_to_string(host.path("config.yml")).unwrap();
    host.write_config(&format!("{good}  qqq: 1\n"));
    host.run("backup").ends(2);
    let mail = taken(&host).unwrap();
    assert_eq!(mail.header("Subject"), "[kvmbackup] FAILED - desk - configuration");
    assert!(mail.text().contains("qqq: unknown key") && mail.html().contains("qqq: unknown key"));
    host.write_config(&good);
    let lock = std::fs::File::options().append(true).open(host.path("state/lock")).unwrap();
    lock.lock().unwrap();
    host.run("backup").ends(3);
    assert_eq!(taken(&host).unwrap().header("Subject"), "[kvmbackup] FAILED - desk - another run holds the lock");
    // Closing the file is not enough: a process that another test is starting has inherited it until it executes its
    // program.
    lock.unlock().unwrap();
    silent(host.run("backup").ends(0));
    assert_eq!(taken(&host).unwrap().header("Subject"), "[kvmbackup] OK 1/1 - desk", "it has recovered");
}

#[test]
fn invalid_mail_settings_are_replaced_by_those_of_the_last_run() {
    let host = Host::new(&["a"]);
    mailed_by_program(&host, 0, "");
    silent(host.run("backup").ends(0));
    taken(&host).unwrap();
    let good = std::fs::read_to_string(host.path("config.yml")).unwrap();
    assert_eq!(host.modes("state/mail.json").into_values().next(), Some(0o600));
    host.write_config(&good.replace("to: root,", "too: root,"));
    let run = host.run("backup").ends(2);
    assert!(run.err.contains("too: unknown key"), "{}", run.err);
    let mail = taken(&host).unwrap();
    assert_eq!(mail.header("Subject"), "[kvmbackup] FAILED - desk - configuration");
    assert!(mail.text().contains("too: unknown key"));
    // An operator who has removed the mail settings gets no mail.
    host.configure("", ALL);
    host.run("backup").ends(0);
    assert!(!host.path("state/mail.json").exists());
    host.write_config(&good.replace("to: root,", "too: root,"));
    host.run("backup").ends(2);
    assert!(taken(&host).is_none());
}

#[test]
fn missed_domain_that_was_not_due_is_mailed() {
    let host = Host::new(&["old", "never"]);
    let program = host.path("sendmail").display().to_string();
    mailed_by_program(&host, 0, "");
    host.run("backup old").ends(0);
    assert_eq!(taken(&host).unwrap().header("Subject"), "[kvmbackup] OK 1/1 - desk");
    host.age("old", &[30]);
    let path = host.path("state/ledger.json");
    let mut ledger: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let last = &mut ledger["domains"]["old"]["last_success"];
    assert!(last.is_string());
    *last = (chrono::Utc::now() - chrono::TimeDelta::days(30)).to_rfc3339().into();
    std::fs::write(&path, ledger.to_string()).unwrap();
    let other = format!("{{\"*\": {{day_of_week: {}}}}}", host.another_day());
    host.configure(&format!("mail: {{to: root, sendmail: {program}}}"), &other);
    host.run("backup").ends(0);
    let mail = taken(&host).unwrap();
    assert_eq!(mail.header("Subject"), "[kvmbackup] WARNING - desk - old is late");
    assert!(mail.text().contains("LATE\n  old is late") && mail.html().contains("old is late"), "{}", mail.text());
    host.run("backup").ends(0);
    assert!(taken(&host).is_none(), "it was reported");
    // The other guest has been known for a month now, and was never backed up.
    let path = host.path("state/survey.json");
    let mut survey: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let since = &mut survey["domains"]["never"]["since"];
    assert!(since.is_string());
    *since = "2026-01-01T00:00:00Z".into();
    std::fs::write(&path, survey.to_string()).unwrap();
    host.run("backup").ends(0);
    let mail = taken(&host).unwrap();
    assert_eq!(mail.header("Subject"), "[kvmbackup] WARNING - desk - never is late, old is late");
}

#[test]
fn recovery_is_mailed_as_ok_regardless_of_unmailed_results() {
    let host = Host::new(&["a", "b"]);
    mailed_by_program(&host, 0, "when: change,");
    std::fs::rename(host.image("b"), host.path("aside")).unwrap();
    silent(host.run("backup").ends(1));
    assert_eq!(taken(&host).unwrap().header("Subject"), "[kvmbackup] FAILED 1/2 - desk - b");
    silent(host.run("backup").ends(1));
    assert!(taken(&host).is_none(), "nothing has changed");
    std::fs::rename(host.path("aside"), host.image("b")).unwrap();
    silent(host.run("backup").ends(0));
    assert_eq!(taken(&host).unwrap().header("Subject"), "[kvmbackup] OK 2/2 - desk");
}

#[test]
fn both_parts_contain_failure_cause_and_last_hook_output() {
    let host = Host::new(&["a", "b"]);
    mailed_by_program(&host, 0, "");
    let hook = host.script("hook", "for n in $(seq 100 140); do echo line-$n; done\nexit 1");
    let config = std::fs::read_to_string(host.path("config.yml")).unwrap();
    let hooks = format!("hooks: [{{name: ping, phase: pre-domain, domains: b, command: [{}]}}]", hook.display());
    host.write_config(&config.replace("day_of_week: daily", &format!("day_of_week: daily, {hooks}")));
    silent(host.run("backup").ends(1));
    let mail = taken(&host).unwrap();
    let free = host.path("backups").display().to_string();
    for part in [mail.text(), mail.html()] {
        for words in
            ["ping (pre-domain): exit status 1", "line-121\n", "line-140", "kvmbackup 0.", &free, " list; kvmbackup "]
        {
            let there = part.contains(words) || part.contains(&words.replace('\n', "\r\n"));
            assert!(there, "{words:?} is not in {part}");
        }
        assert!(!part.contains("line-120"), "twenty lines are enough: {part}");
    }
}

#[test]
fn names_of_domains_cannot_inject_headers() {
    let host = Host::new(&["a"]);
    mailed_by_program(&host, 0, "");
    host.run_words(&["backup", "a\r\nBcc: thief@example.org\r\n\r\n<script>x</script>"]).ends(1);
    let mail = taken(&host).unwrap();
    assert!(!mail.has("Bcc") && mail.header("To") == "root");
    assert!(mail.header("Subject").len() <= 78 && !mail.html().contains("<script"), "{}", mail.header("Subject"));
}

#[test]
fn chromium_renders_the_mail_on_narrow_and_wide_screens_light_and_dark() {
    let host = Host::new(&["a", "a-guest-with-a-name-that-is-much-longer-than-any-name-should-ever-be-in-practice"]);
    std::fs::remove_file(host.image("a")).unwrap();
    host.run("backup").ends(1);
    let html = host.run("report --format html").ends(0).out;
    assert!(html.len() <= 100_000);
    let browser = browser::Browser::new();
    let page = host.path("mail.html");
    std::fs::write(&page, &html).unwrap();
    for Seen { width, scroll_width, outside, .. } in browser.measure(&[&html], &[400, 1200]) {
        assert_eq!((scroll_width, &outside[..]), (width, &[][..]));
        let corner = |light| browser.picture(&format!("file://{}", page.display()), width.max(500), 900, light).corner;
        assert_eq!(corner(true), [255, 255, 255]);
        assert!(corner(false).iter().all(|part| *part < 64), "dark mode gets a dark page: {:?}", corner(false));
    }
}
