//! Owns: a mail as bytes: headers and two parts that say the same. Must not: send it.

use chrono::Utc;
use lettre::Message;
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use uuid::Uuid;

use super::Error;
use crate::config::Mail;
use crate::sys::host;

/// A mail of a run that came to this `result`, one word, in the form of RFC 5322 with lines that end in CR LF.
///
/// # Errors
/// An address of the configuration is none.
pub fn message(
    mail: &Mail,
    run: Uuid,
    result: &str,
    subject: &str,
    text: String,
    html: String,
) -> Result<Message, Error> {
    let node = host::node_name();
    let mut builder = Message::builder()
        .from(mailbox(&sender(mail, &node), &node)?)
        .subject(subject)
        .date(std::time::SystemTime::from(Utc::now()))
        .message_id(Some(format!("<{}.{}@{node}>", run, Uuid::new_v4().simple())))
        // RFC 3834: nobody's holiday notice answers it.
        .raw_header(header("Auto-Submitted", "auto-generated".to_owned()))
        // RFC 2919.
        .raw_header(header("List-Id", format!("<kvmbackup.{node}>")))
        .raw_header(header("X-Kvmbackup-Result", result.to_owned()))
        .raw_header(header("X-Kvmbackup-Run", run.to_string()));
    for to in &mail.to {
        builder = builder.to(mailbox(to, &node)?);
    }
    Ok(builder.multipart(MultiPart::alternative_plain_html(text, html))?)
}

/// Who sends and who gets a mail.
///
/// # Errors
/// An address of the configuration is none.
pub fn envelope(mail: &Mail) -> Result<Envelope, Error> {
    let node = host::node_name();
    let to: Result<Vec<_>, Error> = mail.to.iter().map(|to| Ok(mailbox(to, &node)?.email)).collect();
    Ok(Envelope::new(Some(mailbox(&sender(mail, &node), &node)?.email), to?)?)
}

fn sender(mail: &Mail, node: &str) -> String {
    mail.from.clone().unwrap_or_else(|| format!("kvmbackup <root@{node}>"))
}

/// The name is one of ours and ASCII, which is all that can be wrong with it.
fn header(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

fn mailbox(text: &str, node: &str) -> Result<Mailbox, Error> {
    let whole = if text.contains('@') { text.to_owned() } else { format!("{text}@{node}") };
    whole.parse().map_err(|_| Error::Address(whole))
}
