//! Mails through the usual mail systems of hosts: local names, aliases, refused recipients, late answers.

use crate::host::Host;
use crate::mailbox::Exim;

const ALL: &str = "{\"*\": {day_of_week: daily}}";

fn mailed(host: &Host, to: &str, way: &str) {
    host.configure(&format!("mail: {{to: {to}, when: always, {way}}}"), ALL);
}

/// Through a program in place of sendmail.
fn by(program: &std::path::Path) -> String {
    format!("sendmail: {}", program.display())
}

/// Through the server.
fn through(exim: &Exim, timeout: &str) -> String {
    format!(
        "from: backup@example.org, smtp: {{host: 127.0.0.1, port: {}, security: none, timeout: {timeout}}}",
        exim.port
    )
}

#[test]
fn user_of_this_host_and_alias_get_their_mail() {
    let (exim, host) = (Exim::start(0), Host::new(&["a"]));
    for to in ["root", "team", "[root, team]"] {
        mailed(&host, to, &by(&exim.sendmail()));
        host.run("check --send-test").ends(0).tells(&["ok", "test email"]);
        host.run("backup").ends(0);
    }
    let mails = exim.mails("root");
    assert_eq!(mails.len(), 6);
    for mail in &mails {
        assert_eq!(mail.header("From"), "kvmbackup <root@example.org>");
        assert!(!mail.header("To").contains(&crate::host::run("uname", &["-n"])), "{}", mail.header("To"));
    }
}

#[test]
fn refused_recipient_does_not_prevent_delivery_to_the_others() {
    let (exim, host) = (Exim::start(0), Host::new(&["a"]));
    for (count, way) in [through(&exim, "30s"), by(&exim.msmtp())].iter().enumerate() {
        mailed(&host, "[nobody@example.org, root@example.org, gone@example.org]", way);
        let run = host.run("backup").ends(7);
        for gone in ["nobody@example.org", "gone@example.org"] {
            assert!(run.err.contains(&format!("rejected the recipient {gone}")), "{}", run.err);
        }
        assert!(run.err.contains("hint: ") && run.err.contains("`mail.to`"), "{}", run.err);
        assert!(!run.err.contains("rejected the recipient root@example.org"), "{}", run.err);
        let check = host.run("check --send-test").ends(1).tells(&["PROBLEM", "test email", "nobody@example.org"]);
        check.tells(&["hint: ", "`mail.to`"]);
        host.run("report --send").ends(7);
        assert_eq!(exim.mails("root").len(), 3 * (count + 1));
        assert!(!host.path("state/mail-spool").exists(), "nothing is kept for refused recipients");
    }
    // If all are refused, the mail is reported and kept.
    mailed(&host, "[nobody@example.org, gone@example.org]", &through(&exim, "30s"));
    let run = host.run("backup").ends(7);
    assert!(run.err.contains("it rejected a recipient: it replied 550"), "{}", run.err);
    assert_eq!(std::fs::read_dir(host.path("state/mail-spool")).unwrap().count(), 1);
}

#[test]
fn server_that_answers_late_gets_the_mail_once() {
    let (exim, host) = (Exim::start(5), Host::new(&["a"]));
    mailed(&host, "root@example.org", &through(&exim, "2s"));
    host.run("backup").ends(0);
    assert_eq!(exim.mails("root").len(), 1);
}

#[test]
fn recipient_without_a_domain_is_not_passed_to_a_server() {
    let (exim, host) = (Exim::start(0), Host::new(&["a"]));
    mailed(&host, "[root, ops@example.org]", &through(&exim, "30s"));
    host.run("check").ends(1).tells(&["PROBLEM", "mail server", "\"root\" has no domain"]);
    let run = host.run("backup").ends(7).tells(&["1 of 1 good"]);
    assert!(run.err.contains("\"root\" has no domain") && run.err.contains("user@domain"), "{}", run.err);
    mailed(&host, "ops@example.org", &through(&exim, "30s"));
    host.run("backup").ends(0);
    let mails = exim.mails("ops");
    assert_eq!(mails.len(), 2, "the waiting mail, too");
}
