//! Each cause of an unsent mail has its own message and its own hint.

use crate::host::Host;
use crate::mailbox::Server;

const ALL: &str = "{\"*\": {day_of_week: daily}}";

/// Output of `check` about a mail server, with these keys.
#[track_caller]
fn says(host: &Host, keys: &str, words: &[&str]) {
    host.configure(&format!("mail: {{to: ops@example.org, from: a@example.org, smtp: {{{keys}}}}}"), ALL);
    let run = host.run("check").ends(1);
    let at = run.out.find("mail server").unwrap_or_else(|| panic!("{run:?}"));
    let (said, hint) = run.out[at..].split_once("hint: ").unwrap_or_else(|| panic!("{run:?}"));
    for word in words {
        assert!(said.contains(word) || hint.lines().next().unwrap().contains(word), "{keys}: {word}: {run:?}");
    }
}

#[test]
fn each_cause_has_its_own_hint() {
    let host = Host::new(&["a"]);
    let (starttls, tls, plain) = (Server::start("accept"), Server::start("tls"), Server::start("plain"));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let of = |server: &Server| format!("port: {}, ca_file: {}", server.port, server.ca().display());
    says(&host, "host: nosuch.invalid", &["cannot resolve its name", "/etc/resolv.conf"]);
    says(&host, &format!("host: localhost, port: {nobody}"), &["cannot connect to it", "No server listens there"]);
    says(
        &host,
        &format!("host: localhost, port: {}, security: tls", tls.port),
        &["UnknownIssuer", "`mail.smtp.ca_file`"],
    );
    says(&host, &format!("host: localhost, port: {}", starttls.port), &["UnknownIssuer", "`mail.smtp.ca_file`"]);
    says(
        &host,
        &format!("host: 127.0.0.1, {}, security: tls", of(&tls)),
        &["not valid for name", "the name in the certificate"],
    );
    says(&host, &format!("host: localhost, {}, security: tls", of(&starttls)), &["TLS failed", "`security: starttls`"]);
    says(&host, &format!("host: localhost, {}, timeout: 1s", of(&tls)), &["within 1 s", "465 and tls"]);
    says(&host, &format!("host: localhost, {}", of(&plain)), &["does not offer STARTTLS", "`security: tls`"]);
    let expired = Server::expired("tls");
    says(&host, &format!("host: localhost, {}, security: tls", of(&expired)), &["expired", "Renew the certificate"]);
    let empty = host.path("empty.pem");
    std::fs::write(&empty, "no certificate\n").unwrap();
    says(
        &host,
        &format!("host: localhost, port: {}, security: tls, ca_file: {}", tls.port, empty.display()),
        &["empty.pem", "no certificate found", "PEM"],
    );
    let password = host.path("password");
    std::fs::write(&password, "wrong\n").unwrap();
    crate::host::run("chmod", &["600", password.to_str().unwrap()]);
    let login = format!("username: backup, password_file: {}", password.display());
    says(&host, &format!("host: localhost, {}, {login}", of(&starttls)), &["rejected the login", "535", "`username`"]);
}

#[test]
fn failing_tls_is_tried_only_once() {
    let (server, host) = (Server::start("accept"), Host::new(&["a"]));
    let smtp = format!("{{host: localhost, port: {}}}", server.port);
    host.configure(&format!("mail: {{to: ops@example.org, from: a@example.org, smtp: {smtp}}}"), ALL);
    let run = host.run("--verbose backup").ends(7);
    assert!(run.err.contains("`mail.smtp.ca_file`") && !run.err.contains("retrying"), "{}", run.err);
}

#[test]
fn strict_server_accepts_the_configured_ehlo_name() {
    let (server, host) = (Server::start("greet"), Host::new(&["a"]));
    for (ehlo, code) in [("", 1), (", ehlo: desk.example.org", 0)] {
        let smtp = format!(
            "{{host: localhost, port: {}, security: starttls, ca_file: {}{ehlo}}}",
            server.port,
            server.ca().display()
        );
        host.configure(&format!("mail: {{to: ops@example.org, from: a@example.org, smtp: {smtp}}}"), ALL);
        let run = host.run("check").ends(code);
        assert_eq!(run.out.contains("rejected the greeting"), code == 1, "{run:?}");
        assert_eq!(run.out.contains("`mail.smtp.ehlo`"), code == 1, "{run:?}");
    }
}
