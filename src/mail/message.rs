//! Builds a mail: headers, a text part and an HTML part with the same contents. It must not send it.

use chrono::Utc;
use lettre::message::header::{self, Header, HeaderName, HeaderValue, Headers};
use lettre::message::{Mailbox, Mailboxes, MultiPart};
use uuid::Uuid;

use super::Error;
use crate::config::{Mail, Transport};
use crate::sys::host;

/// Builds the email of a run in the form of RFC 5322, with lines that end in CR LF. `result` is one word.
///
/// A name without a domain is not changed: the local mail system adds the domain and resolves aliases.
///
/// # Errors
/// An address of the configuration is invalid.
pub fn message(
    mail: &Mail,
    run: Uuid,
    result: &str,
    subject: &str,
    (text, html): (String, String),
) -> Result<Vec<u8>, Error> {
    let node = host::node_name();
    let mut headers = Headers::new();
    headers.insert_raw(mailboxes::<header::From>("From", &[sender(mail)])?);
    headers.insert_raw(mailboxes::<header::To>("To", &mail.to)?);
    headers.set(header::Subject::from(subject.to_owned()));
    headers.set(header::Date::new(std::time::SystemTime::from(Utc::now())));
    headers.set(header::MessageId::from(format!("<{}.{}@{node}>", run, Uuid::new_v4().simple())));
    headers.set(header::MIME_VERSION_1_0);
    // RFC 3834: prevents automatic replies.
    headers.insert_raw(plain("Auto-Submitted", "auto-generated".to_owned()));
    // RFC 2919.
    headers.insert_raw(plain("List-Id", format!("<kvmbackup.{node}>")));
    headers.insert_raw(plain("X-Kvmbackup-Result", result.to_owned()));
    headers.insert_raw(plain("X-Kvmbackup-Run", run.to_string()));
    let mut bytes = headers.to_string().into_bytes();
    bytes.extend(MultiPart::alternative_plain_html(text, html).formatted());
    Ok(bytes)
}

/// Sender and recipients for a mail server: addresses without names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The sender.
    pub from: String,
    /// The recipients: never empty.
    pub to: Vec<String>,
}

/// The envelope for a mail server, which does not know the users of this host.
///
/// # Errors
/// An address has no domain or is invalid.
pub fn envelope(mail: &Mail) -> Result<Envelope, Error> {
    let address = |text: &String| match text.contains('@') {
        true => Ok(mailbox(text)?.email.to_string()),
        false => Err(Error::Local(text.clone())),
    };
    let to = mail.to.iter().map(address).collect::<Result<_, _>>()?;
    let from = match (&mail.from, host::full_name()) {
        (Some(from), _) => address(from)?,
        (None, Some(node)) => format!("root@{node}"),
        (None, None) => return Err(Error::Sender(host::node_name())),
    };
    Ok(Envelope { from, to })
}

/// The sender in the header.
fn sender(mail: &Mail) -> String {
    let local = || "kvmbackup <root>".to_owned();
    match (&mail.from, &mail.transport) {
        (Some(from), _) => from.clone(),
        (None, Transport::Sendmail(_)) => local(),
        (None, Transport::Smtp(_)) => host::full_name().map_or_else(local, |node| format!("kvmbackup <root@{node}>")),
    }
}

/// A header with addresses. Lettre cannot represent a local name, so such a list is written as plain text without display names.
fn mailboxes<T: Header + From<Mailboxes>>(name: &'static str, texts: &[String]) -> Result<HeaderValue, Error> {
    let has_domain = |text: &String| text.contains('@');
    if texts.iter().all(has_domain) {
        let all: Vec<Mailbox> = texts.iter().map(|text| mailbox(text)).collect::<Result<_, _>>()?;
        return Ok(T::from(Mailboxes::from(all)).display());
    }
    let text = |text: &String| match has_domain(text) {
        true => mailbox(text).map(|mailbox| mailbox.email.to_string()),
        false => Ok(text.clone()),
    };
    Ok(plain(name, texts.iter().map(text).collect::<Result<Vec<_>, _>>()?.join(", ")))
}

/// The name is a constant and ASCII, so it is always valid.
fn plain(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

fn mailbox(text: &str) -> Result<Mailbox, Error> {
    text.parse().map_err(|_| Error::Address(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MailWhen;

    fn mail(to: &[&str], from: Option<&str>) -> Mail {
        Mail {
            to: to.iter().map(|to| (*to).to_owned()).collect(),
            from: from.map(str::to_owned),
            when: MailWhen::Always,
            transport: Transport::Sendmail("/bin/true".into()),
            templates: None,
        }
    }

    fn line(mail: &Mail, name: &str) -> String {
        let bytes = message(mail, Uuid::nil(), "OK", "subject", ("text".to_owned(), "html".to_owned())).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.to_owned()
    }

    #[test]
    fn local_names_are_valid_in_headers_but_not_in_the_smtp_envelope() {
        let local = mail(&["root", "Ops <ops@example.org>"], None);
        assert_eq!(line(&local, "To:"), "To: root, ops@example.org");
        assert_eq!(line(&local, "From:"), "From: kvmbackup <root>");
        assert!(matches!(envelope(&local), Err(Error::Local(name)) if name == "root"));
        let full = mail(&["Ops <ops@example.org>"], Some("Backup <backup@example.org>"));
        assert_eq!(line(&full, "To:"), "To: Ops <ops@example.org>");
        let right = Envelope { from: "backup@example.org".to_owned(), to: vec!["ops@example.org".to_owned()] };
        assert_eq!(envelope(&full).unwrap(), right);
    }
}
