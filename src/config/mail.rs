//! The value of the key `mail`, and its limits. Must not send anything, or read a secret.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::key;
use super::keys::{MAIL, SMTP};
use super::place::Place;
use super::value;
use crate::sys::secret::Secret;

/// The path in the Linux Standard Base and in Debian.
const SENDMAIL: &str = "/usr/sbin/sendmail";

/// How runs are mailed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// The recipients, never empty: addresses, `Name <address>`, or, only for [`Transport::Sendmail`], users of this
    /// host.
    pub to: Vec<String>,
    /// The sender, in the same form; `None` means `root` of this host.
    pub from: Option<String>,
    /// After which runs an email is sent.
    pub when: MailWhen,
    /// How an email leaves the host.
    pub transport: Transport,
    /// Absolute path of a directory with templates that replace the built-in ones, file by file.
    pub templates: Option<PathBuf>,
}

impl Mail {
    /// The configured files and directories.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.templates.iter().cloned().collect();
        match &self.transport {
            Transport::Sendmail(program) => files.push(program.clone()),
            Transport::Smtp(smtp) => {
                files.extend(smtp.ca_file.clone());
                files.extend(smtp.login.iter().filter_map(|login| match &login.password {
                    Secret::File(path) => Some(path.clone()),
                    Secret::Env(_) | Secret::Credential(_) => None,
                }));
            }
        }
        files
    }
}

/// After which runs an email is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MailWhen {
    /// Failed runs, the first good one after that, and one good run a week.
    Failure,
    /// Runs with another result than the one before.
    Change,
    /// Every run.
    Always,
    /// The first run of a day; the email includes all runs since the last email.
    Digest,
}

/// How an email leaves the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// The absolute path of a program that accepts `-i -t` and the email on standard input.
    Sendmail(PathBuf),
    /// A mail server.
    Smtp(Smtp),
}

/// A mail server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smtp {
    /// Its name, as in its certificate.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub security: Security,
    /// The account, if the server requires one; never with [`Security::None`].
    pub login: Option<Login>,
    /// Absolute path of certificates (PEM) to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// How long one reply of the server may take.
    pub timeout: Duration,
    /// The host name that is sent to the server; `None` means this host's name with its domain, or else its address.
    #[serde(default)]
    pub ehlo: Option<String>,
}

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// TLS by STARTTLS, required: RFC 3207.
    StartTls,
    /// TLS from the first byte: RFC 8314.
    Tls,
    /// Not encrypted.
    None,
}

/// An account on a mail server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The user name.
    pub username: String,
    /// Where the password is stored.
    pub password: Secret,
}

/// The value of `mail`; `None` if it is incomplete or invalid.
pub(super) fn read(place: &Place<'_>, problems: &mut Problems) -> Option<Mail> {
    let transport = Transport::Sendmail(PathBuf::from(SENDMAIL));
    let mut mail = Mail { to: Vec::new(), from: None, when: MailWhen::Failure, transport, templates: None };
    let before = problems.count();
    let entries = key::inside(place, &mut mail, MAIL, problems);
    key::exclude(&entries, &["sendmail", "smtp"], problems);
    key::require(place, &entries, "to", Some(ADDRESS), problems);
    (problems.count() == before).then_some(mail)
}

/// The keys of which one names the place of a password.
pub(super) const PASSWORDS: [&str; 3] = ["password_file", "password_env", "password_credential"];

pub(super) fn server(place: &Place<'_>, problems: &mut Problems) -> Smtp {
    let mut smtp = Smtp {
        host: String::new(),
        port: 0,
        security: Security::StartTls,
        login: None,
        ca_file: None,
        timeout: Duration::from_secs(30),
        ehlo: None,
    };
    let entries = key::inside(place, &mut smtp, SMTP, problems);
    key::require(place, &entries, "host", Some("the name of the mail server, as in its certificate"), problems);
    key::exclude(&entries, &PASSWORDS, problems);
    let password = entries.iter().find(|entry| PASSWORDS.contains(&entry.name));
    match (key::find(&entries, "username"), password) {
        (Some(username), None) => {
            problems.add(username.wrong("requires a password", format!("one of {}", PASSWORDS.join(", "))));
        }
        (None, Some(password)) => problems.add(password.problem("requires `username`")),
        (Some(_), Some(password)) if smtp.security == Security::None => {
            let message = "would be sent unencrypted because of `security: none`";
            problems.add(password.wrong(message, "security: starttls or tls"));
        }
        _ => {}
    }
    if smtp.port == 0 {
        smtp.port = match smtp.security {
            Security::StartTls => 587,
            Security::Tls => 465,
            Security::None => 25,
        };
    }
    smtp
}

/// The login that is being read, part by part.
pub(super) fn login(smtp: &mut Smtp) -> &mut Login {
    smtp.login.get_or_insert_with(|| Login { username: String::new(), password: Secret::Env(String::new()) })
}

const ADDRESS: &str =
    "an address such as ops@example.org or `Ops <ops@example.org>`, or a user of this host such as root";

pub(super) fn addresses(place: &Place<'_>, problems: &mut Problems) -> Vec<String> {
    let items = place.items();
    if items.is_empty() {
        problems.add(place.wrong("no address given", ADDRESS));
    }
    items.iter().filter_map(|item| address(item, problems)).collect()
}

pub(super) fn address(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = value::text(place, problems)?;
    let right = match text.contains('@') {
        true => text.parse::<lettre::message::Mailbox>().is_ok() && !text.contains(char::is_control),
        false => is_name(text),
    };
    if !right {
        problems.add(place.wrong(format!("bad address {text:?}"), ADDRESS));
    }
    right.then(|| text.to_owned())
}

pub(super) fn host_name(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = value::text(place, problems)?;
    let right = is_host(text) || text.parse::<Ipv6Addr>().is_ok();
    if !right {
        problems
            .add(place.wrong(format!("bad host {text:?}"), "a host name or an IP address; the port belongs to `port`"));
    }
    right.then(|| text.to_owned())
}

/// The argument of EHLO: a host name or an address literal, RFC 5321, 4.1.1.1.
pub(super) fn own_name(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = value::text(place, problems)?;
    let literal = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).map(|text| match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => text[5..].parse::<Ipv6Addr>().is_ok(),
        _ => text.parse::<Ipv4Addr>().is_ok(),
    });
    let right = literal.unwrap_or_else(|| is_host(text));
    if !right {
        problems.add(place.wrong(format!("bad name {text:?}"), "a host name, or an address such as [192.0.2.1]"));
    }
    right.then(|| text.to_owned())
}

fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
}

/// The name of a variable or of a credential. A credential's is also a file name, so it must not contain a directory.
pub(super) fn name(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = value::text(place, problems)?;
    if !is_name(text) {
        problems.add(place.wrong(format!("bad name {text:?}"), "letters, digits, `.`, `_` and `-`, first a letter"));
        return None;
    }
    Some(text.to_owned())
}

fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
