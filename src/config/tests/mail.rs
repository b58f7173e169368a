//! Tests the key `mail`.

use super::super::*;
use super::{complaints, read};
use std::path::PathBuf;
use std::time::Duration;

fn with(mail: &str) -> String {
    format!("h:\n  backupdir: /b\n  mail: {mail}\n  domains: {{d: {{day_of_week: Sun}}}}\n")
}

#[test]
fn mail_requires_only_recipients() {
    let mail = read(&with("{to: root}")).mail.unwrap();
    let usual = Mail {
        to: vec!["root".to_owned()],
        from: None,
        when: MailWhen::Failure,
        transport: Transport::Sendmail(PathBuf::from("/usr/sbin/sendmail")),
        templates: None,
    };
    assert_eq!(mail, usual);
    assert_eq!(read("h: {backupdir: /b, domains: {d: {day_of_week: Sun}}}").mail, None);
    let text = "{to: [a@b.c, 'Ops <o@b.c>'], when: digest, smtp: {host: m, username: u, password_env: P, timeout: 9s, ehlo: '[192.0.2.7]'}}";
    let mail = read(&with(text)).mail.unwrap();
    let smtp = Smtp {
        host: "m".to_owned(),
        port: 587,
        security: Security::StartTls,
        login: Some(Login { username: "u".to_owned(), password: Secret::Env("P".to_owned()) }),
        ca_file: None,
        timeout: Duration::from_secs(9),
        ehlo: Some("[192.0.2.7]".to_owned()),
    };
    assert_eq!((mail.when, mail.to.len(), mail.transport), (MailWhen::Digest, 2, Transport::Smtp(smtp)));
    for (security, port) in [("tls", 465), ("none", 25)] {
        let mail = read(&with(&format!("{{to: a@b.c, smtp: {{host: m, security: {security}}}}}"))).mail.unwrap();
        assert!(matches!(mail.transport, Transport::Smtp(Smtp { port: found, .. }) if found == port));
    }
}

#[test]
fn mistakes_are_reported_with_the_valid_values() {
    let address =
        "valid: an address such as ops@example.org or `Ops <ops@example.org>`, or a user of this host such as root";
    let cases = [
        ("{}", format!("mail: `to` is missing; {address}")),
        ("{to: []}", format!("mail.to: no address given; {address}")),
        ("{to: 'a b@c d'}", format!("mail.to: bad address \"a b@c d\"; {address}")),
        ("{to: \"a@b\\r\\nBcc: x@y\"}", format!("mail.to: bad address \"a@b\\r\\nBcc: x@y\"; {address}")),
        ("{to: r, wen: always}", "mail.wen: unknown key; valid: to, from, when, sendmail, smtp, templates; did you mean `when`?".into()),
        ("{to: r, when: allways}", "mail.when: bad value \"allways\"; valid: failure, change, always, digest; did you mean `always`?".into()),
        ("{to: r, sendmail: msmtp}", "mail.sendmail: bad path \"msmtp\"; valid: an absolute path".into()),
        ("{to: r, sendmail: /s, smtp: {host: m}}", "mail.smtp: cannot be combined with `sendmail` on line 3; valid: one of sendmail, smtp".into()),
        ("{to: r, smtp: {}}", "mail.smtp: `host` is missing; valid: the name of the mail server, as in its certificate".into()),
        ("{to: r, smtp: {host: 'm/n'}}", "mail.smtp.host: bad host \"m/n\"; valid: a host name or an IP address; the port belongs to `port`".into()),
        ("{to: r, smtp: {host: 'm:587'}}", "mail.smtp.host: bad host \"m:587\"; valid: a host name or an IP address; the port belongs to `port`".into()),
        ("{to: r, smtp: {host: '::1', ehlo: '[m]'}}", "mail.smtp.ehlo: bad name \"[m]\"; valid: a host name, or an address such as [192.0.2.1]".into()),
        ("{to: r, smtp: {host: m, port: 65536}}", "mail.smtp.port: bad number \"65536\"; valid: a whole number from 1 to 65535".into()),
        ("{to: r, smtp: {host: m, username: u}}", "mail.smtp.username: requires a password; valid: one of password_file, password_env, password_credential".into()),
        ("{to: r, smtp: {host: m, password_file: /p}}", "mail.smtp.password_file: requires `username`".into()),
        ("{to: r, smtp: {host: m, username: u, password_credential: ../p}}", "mail.smtp.password_credential: bad name \"../p\"; valid: letters, digits, `.`, `_` and `-`, first a letter".into()),
        ("{to: r, smtp: {host: m, username: u, password_file: /p, password_env: P}}", "mail.smtp.password_env: cannot be combined with `password_file` on line 3; valid: one of password_file, password_env, password_credential".into()),
        ("{to: r, smtp: {host: m, security: none, username: u, password_file: /p}}", "mail.smtp.password_file: would be sent unencrypted because of `security: none`; valid: security: starttls or tls".into()),
    ];
    for (mail, complaint) in cases {
        assert_eq!(complaints(&with(mail)), [format!("c.yml:3: h.{complaint}")], "{mail}");
    }
}

#[test]
fn valid_mail_settings_are_salvaged() {
    let salvaged = |mail: &str| {
        let text = format!("{}  qqq: 1\n", with(mail));
        parse(&text, Path::new("c.yml"), "h").unwrap_err().salvaged.mail
    };
    assert!(salvaged("{to: root}").is_some());
    assert!(salvaged("{to: root, when: qqq}").is_none());
}
