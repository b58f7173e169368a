//! The SMTP dialogue (RFC 5321): greeting, STARTTLS, login, an email. If TLS is configured, it must not send a secret or an email in
//! cleartext, or trust a reply that arrived before TLS.

use std::io::{BufReader, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::reply::Reply;
use super::stream::{Stream, Tls};
use super::{AFTER_DATA, SmtpStage, Trouble};
use crate::config::{Security, Smtp};
use crate::mail::message::Envelope;
use crate::sys::host;

/// A session with a mail server.
pub(super) struct Session {
    stream: BufReader<Stream>,
    /// Its extensions, one line each, such as `AUTH PLAIN LOGIN`.
    offers: Vec<String>,
    /// How long one reply may take.
    timeout: Duration,
}

impl Session {
    /// Connects and greets, inside TLS if it is configured.
    pub fn open(smtp: &Smtp, tls: Option<&Tls>) -> Result<Session, Trouble> {
        let mut stream = Stream::connect(&smtp.host, smtp.port, smtp.timeout)?;
        if let (Security::Tls, Some(tls)) = (smtp.security, tls) {
            stream = tls.begin(stream)?;
        }
        let own = smtp.ehlo.clone().or_else(host::full_name).map_or_else(|| stream.own_address(), Ok)?;
        let mut session = Session { stream: BufReader::new(stream), offers: Vec::new(), timeout: smtp.timeout };
        session.reply(2, SmtpStage::Greeting)?;
        session.greet(&own)?;
        match (smtp.security, tls) {
            (Security::StartTls, Some(tls)) => session.start_tls(tls, &own),
            _ => Ok(session),
        }
    }

    fn greet(&mut self, own: &str) -> Result<(), Trouble> {
        let reply = self.command(&format!("EHLO {own}"), 2, SmtpStage::Greeting)?;
        self.offers = reply.lines.into_iter().skip(1).map(|line| line.to_ascii_uppercase()).collect();
        Ok(())
    }

    /// RFC 3207. Everything learned before is discarded. Bytes already buffered after the reply came in cleartext and may be from anyone.
    fn start_tls(mut self, tls: &Tls, own: &str) -> Result<Session, Trouble> {
        self.offer("STARTTLS").ok_or(Trouble::Lacks("STARTTLS"))?;
        self.command("STARTTLS", 2, SmtpStage::Greeting)?;
        if !self.stream.buffer().is_empty() {
            return Err(Trouble::BeforeTls);
        }
        let stream = tls.begin(self.stream.into_inner())?;
        let mut session = Session { stream: BufReader::new(stream), offers: Vec::new(), ..self };
        session.greet(own)?;
        Ok(session)
    }

    /// RFC 4954: PLAIN, or LOGIN if only that is offered.
    pub fn log_in(&mut self, user: &str, password: &str) -> Result<(), Trouble> {
        let ways = self.offer("AUTH").unwrap_or_default();
        let offers = |way: &str| ways.split_whitespace().any(|offered| offered == way);
        if offers("PLAIN") {
            let secret = BASE64.encode(format!("\0{user}\0{password}"));
            self.command(&format!("AUTH PLAIN {secret}"), 2, SmtpStage::Login)?;
        } else if offers("LOGIN") {
            self.command("AUTH LOGIN", 3, SmtpStage::Login)?;
            self.command(&BASE64.encode(user), 3, SmtpStage::Login)?;
            self.command(&BASE64.encode(password), 2, SmtpStage::Login)?;
        } else {
            return Err(Trouble::Lacks("a login with PLAIN or LOGIN"));
        }
        Ok(())
    }

    /// Sends an email whose lines end in CR LF to the accepted recipients. Returns the others with the reason.
    pub fn send(&mut self, envelope: &Envelope, mail: &[u8]) -> Result<Vec<(String, Trouble)>, Trouble> {
        let Envelope { from, to } = envelope;
        let mut begin = format!("MAIL FROM:<{from}>");
        if !mail.is_ascii() {
            self.offer("8BITMIME").ok_or(Trouble::Lacks("8BITMIME"))?;
            begin += " BODY=8BITMIME";
        }
        if !from.is_ascii() || !to.iter().all(|address| address.is_ascii()) {
            self.offer("SMTPUTF8").ok_or(Trouble::Lacks("SMTPUTF8"))?;
            begin += " SMTPUTF8";
        }
        self.command(&begin, 2, SmtpStage::Sender)?;
        let mut refused = Vec::new();
        for address in to {
            match self.command(&format!("RCPT TO:<{address}>"), 2, SmtpStage::Recipient) {
                Err(error @ Trouble::Refused { .. }) => refused.push((address.clone(), error)),
                taken => drop(taken?),
            }
        }
        if refused.len() == to.len() {
            // A temporarily rejected recipient may be accepted at the next try.
            let for_now = refused.iter().position(|(_, why)| !why.is_permanent()).unwrap_or_default();
            return Err(refused.swap_remove(for_now).1);
        }
        self.command("DATA", 3, SmtpStage::Mail)?;
        self.write(&body(mail))?;
        // The server may already have accepted the email, so a retry would deliver a copy.
        self.stream.get_ref().wait_for_reads(self.timeout.max(AFTER_DATA))?;
        self.reply(2, SmtpStage::Mail).map_err(|error| match error {
            Trouble::Network(source) => Trouble::Unanswered(source),
            error => error,
        })?;
        Ok(refused)
    }

    /// Ends the session; the email has been accepted already, whatever the answer.
    pub fn quit(mut self) {
        let _ = self.stream.get_ref().wait_for_reads(self.timeout);
        let _ = self.command("QUIT", 2, SmtpStage::Mail);
    }

    /// The rest of the line of an offered extension.
    fn offer(&self, name: &str) -> Option<String> {
        let rest = |line: &String| {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            (word == name).then(|| rest.to_owned())
        };
        self.offers.iter().find_map(rest)
    }

    fn command(&mut self, line: &str, digit: u16, stage: SmtpStage) -> Result<Reply, Trouble> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.reply(digit, stage)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes)?;
        Ok(stream.flush()?)
    }

    fn reply(&mut self, digit: u16, stage: SmtpStage) -> Result<Reply, Trouble> {
        Reply::read(&mut self.stream)?.expect(digit, stage)
    }
}

/// An email with its end marker. Lines that begin with a dot get another dot: RFC 5321, 4.5.2.
fn body(mail: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(mail.len() + 64);
    for line in mail.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            body.push(b'.');
        }
        body.extend(line);
    }
    if !body.ends_with(b"\r\n") {
        body.extend(b"\r\n");
    }
    body.extend(b".\r\n");
    body
}

#[cfg(test)]
mod tests {
    use super::body;

    #[test]
    fn leading_dots_are_doubled_so_that_no_line_ends_the_mail() {
        for (mail, sent) in [
            ("a\r\nb\r\n", "a\r\nb\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\r\n..\r\na.\r\n", "..\r\n...\r\na.\r\n.\r\n"),
            ("a\n.\nb\r\n", "a\n..\nb\r\n.\r\n"),
            ("", "\r\n.\r\n"),
        ] {
            assert_eq!(String::from_utf8(body(mail.as_bytes())).unwrap(), sent);
        }
    }
}
