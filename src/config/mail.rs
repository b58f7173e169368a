//! Owns: the key `mail`: what it may say, how it is written, and its bounds. Must not: send anything, or read a secret.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::keys;
use super::node::Kind;
use super::place::Place;
use super::value;

/// Debian's place for it, and the usual one: the Linux Standard Base names `/usr/sbin/sendmail`.
const SENDMAIL: &str = "/usr/sbin/sendmail";
const TIMEOUT: Duration = Duration::from_secs(30);

/// How runs are mailed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// To whom: never empty. Each is an address, `Name <address>`, or the name of a user of this host, which
    /// only [`Transport::Sendmail`] knows.
    pub to: Vec<String>,
    /// From whom, in the same form; `None` is `root` of this host.
    pub from: Option<String>,
    /// After which runs.
    pub when: MailWhen,
    /// By which way.
    pub transport: Transport,
    /// Absolute path of a folder with templates that replace the built-in ones, file by file.
    pub templates: Option<PathBuf>,
}

impl Mail {
    /// The files and folders that it names.
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

/// After which runs a mail is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MailWhen {
    /// Those that fail, the first good one after that, and a good one a week.
    Failure,
    /// Those that come to something else than the one before.
    Change,
    /// All.
    Always,
    /// The first of a day; it also tells of those that were not mailed since the last.
    Digest,
}

/// The way of a mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// A program that takes `-i -t` and the mail at its standard input, by its absolute path.
    Sendmail(PathBuf),
    /// A mail server.
    Smtp(Smtp),
}

/// A mail server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smtp {
    /// Its name, which its certificate must be for.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is kept from being read.
    pub security: Security,
    /// Who we are there, if it asks; never with [`Security::None`].
    pub login: Option<Login>,
    /// Absolute path of certificates (PEM) to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// How long one answer of the server may take.
    pub timeout: Duration,
    /// What we call ourselves there; `None` is this host's name with its domain, or else its address.
    #[serde(default)]
    pub ehlo: Option<String>,
}

/// How a connection is kept from being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// TLS that is asked for in clear, and must be had: RFC 3207.
    StartTls,
    /// TLS from the first byte: RFC 8314.
    Tls,
    /// In clear.
    None,
}

/// A user of a mail server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The name.
    pub username: String,
    /// Where the password is.
    pub password: Secret,
}

/// Where a secret is; the secret itself is in no setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Secret {
    /// The first line of a file, by its absolute path.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A credential of the systemd unit: a file of this name in `$CREDENTIALS_DIRECTORY`, see systemd.exec(5).
    Credential(String),
}

/// The key `mail`; `None` where it says too little or something wrong.
pub(super) fn read(place: &Place<'_>, problems: &mut Problems) -> Option<Mail> {
    const WHEN: [(&str, MailWhen); 4] = [
        ("failure", MailWhen::Failure),
        ("change", MailWhen::Change),
        ("always", MailWhen::Always),
        ("digest", MailWhen::Digest),
    ];
    let (mut to, mut from, mut when, mut templates) = (Vec::new(), None, Some(MailWhen::Failure), None);
    let (mut sendmail, mut smtp) = (None, None);
    let before = problems.count();
    let entries = place.entries(problems);
    for entry in &entries {
        match entry.name {
            "to" => to = addresses(entry, problems),
            "from" => from = address(entry, problems),
            "when" => when = value::word(entry, &WHEN, problems),
            "sendmail" => sendmail = value::absolute(entry, problems),
            "smtp" => smtp = server(entry, problems),
            "templates" => templates = value::absolute(entry, problems),
            _ => problems.add(value::unknown_key(entry, "unknown key", keys::MAIL)),
        }
    }
    let line = |name| entries.iter().find(|entry| entry.name == name);
    if let (Some(sendmail), Some(smtp)) = (line("sendmail"), line("smtp")) {
        let message = format!("conflicts with `smtp` on line {}", smtp.line);
        problems.add(sendmail.wrong(message, "`sendmail` or `smtp`"));
    }
    if line("to").is_none() && (place.is_null() || matches!(place.node.kind, Kind::Map(_))) {
        problems.add(place.wrong("`to` is missing", ADDRESS));
    }
    let transport = match smtp {
        Some(smtp) => Transport::Smtp(smtp),
        None => Transport::Sendmail(sendmail.unwrap_or_else(|| PathBuf::from(SENDMAIL))),
    };
    (problems.count() == before).then_some(Mail { to, from, when: when?, transport, templates })
}

fn server(place: &Place<'_>, problems: &mut Problems) -> Option<Smtp> {
    const SECURITY: [(&str, Security); 3] =
        [("starttls", Security::StartTls), ("tls", Security::Tls), ("none", Security::None)];
    let (mut host, mut port, mut security, mut ehlo) = (None, None, Some(Security::StartTls), None);
    let (mut username, mut passwords, mut ca_file, mut timeout) = (None, Vec::new(), None, Some(TIMEOUT));
    let entries = place.entries(problems);
    for entry in &entries {
        match entry.name {
            "host" => host = host_name(entry, problems),
            "port" => port = value::number(entry, 1..=65535, problems).and_then(|port| u16::try_from(port).ok()),
            "security" => security = value::word(entry, &SECURITY, problems),
            "username" => username = value::text(entry, problems).map(|text| (entry, text.to_owned())),
            "password_file" => passwords.push((entry, value::absolute(entry, problems).map(Secret::File))),
            "password_env" => passwords.push((entry, name(entry, problems).map(Secret::Env))),
            "password_credential" => passwords.push((entry, name(entry, problems).map(Secret::Credential))),
            "ca_file" => ca_file = value::absolute(entry, problems),
            "timeout" => timeout = value::duration(entry, problems),
            "ehlo" => ehlo = own_name(entry, problems),
            _ => problems.add(value::unknown_key(entry, "unknown key", keys::SMTP)),
        }
    }
    if !entries.iter().any(|entry| entry.name == "host") && (place.is_null() || matches!(place.node.kind, Kind::Map(_)))
    {
        problems.add(place.wrong("`host` is missing", "the name of the mail server, as in its certificate"));
    }
    if let [(first, _), (second, _), ..] = passwords.as_slice() {
        problems.add(second.problem(format!("conflicts with `{}` on line {}", first.name, first.line)));
    }
    match (&username, passwords.first()) {
        (Some((place, _)), None) => {
            problems.add(place.wrong("has no password", "password_file, password_env or password_credential"));
        }
        (None, Some((place, _))) => problems.add(place.problem("requires `username`")),
        (Some(_), Some((place, _))) if security == Some(Security::None) => {
            problems.add(place.wrong("would be sent unencrypted with `security: none`", "security: starttls or tls"));
        }
        _ => {}
    }
    let login = username.zip(passwords.into_iter().next().and_then(|(_, secret)| secret));
    let login = login.map(|((_, username), password)| Login { username, password });
    let security = security?;
    let usual = match security {
        Security::StartTls => 587,
        Security::Tls => 465,
        Security::None => 25,
    };
    Some(Smtp { host: host?, port: port.unwrap_or(usual), security, login, ca_file, timeout: timeout?, ehlo })
}

const ADDRESS: &str = "addresses such as ops@example.org or `Ops <ops@example.org>`, or local users such as root";

fn addresses(place: &Place<'_>, problems: &mut Problems) -> Vec<String> {
    let items = place.items();
    if items.is_empty() {
        problems.add(place.wrong("has no recipient", ADDRESS));
    }
    items.iter().filter_map(|item| address(item, problems)).collect()
}

fn address(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
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

fn host_name(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = value::text(place, problems)?;
    let right = is_host(text) || text.parse::<Ipv6Addr>().is_ok();
    if !right {
        problems.add(place.wrong(format!("bad host {text:?}"), "a host name or an IP address, without a port"));
    }
    right.then(|| text.to_owned())
}

/// What EHLO may say: a host name or an address literal, RFC 5321, 4.1.1.1.
fn own_name(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
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

/// The name of a variable or of a credential, which is also the name of a file: no folder is in it.
fn name(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
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
