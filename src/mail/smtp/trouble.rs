//! Owns: why a mail server did not take a mail, and what the operator can do about each cause. Must not: hold a secret.

use std::fmt;
use std::io;

use rustls::CertificateError;

/// Why a server did not take a mail.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Its name has no address that this host can find out.
    #[error("its name cannot be resolved")]
    Name(#[source] io::Error),
    /// Nobody answers at its address.
    #[error("it cannot be connected to")]
    Unreachable(#[source] io::Error),
    /// The network, or the server's end of it, in the midst of a session.
    #[error("the connection failed")]
    Network(#[from] io::Error),
    /// It got the whole mail, and did not say whether it takes it.
    #[error("it did not answer to the end of the mail, and may have taken it")]
    Unanswered(#[source] io::Error),
    /// The certificate is not trusted, or no common TLS version exists.
    #[error("TLS failed")]
    Tls(#[from] rustls::Error),
    /// Cleartext replies followed the reply to STARTTLS. They could be mistaken for replies inside TLS.
    #[error("more than the answer to STARTTLS came before TLS began")]
    BeforeTls,
    /// It does not offer what is needed.
    #[error("it does not offer {0}")]
    Lacks(&'static str),
    /// It refuses; with 4xx for now, with 5xx for good.
    #[error("{stage}: it answered {code} {text}")]
    Refused {
        /// What.
        stage: SmtpStage,
        /// Its code.
        code: u16,
        /// Its words.
        text: String,
    },
    /// Its answer is not SMTP.
    #[error("its answer is not SMTP")]
    Garbage,
}

/// What a server refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpStage {
    /// The connection, our name, or the wish for TLS.
    Greeting,
    /// User and password.
    Login,
    /// The sender.
    Sender,
    /// A recipient.
    Recipient,
    /// The mail itself.
    Mail,
}

impl fmt::Display for SmtpStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SmtpStage::Greeting => "it refused the greeting",
            SmtpStage::Login => "it refused the login",
            SmtpStage::Sender => "it refused the sender",
            SmtpStage::Recipient => "it refused a recipient",
            SmtpStage::Mail => "it refused the mail itself",
        })
    }
}

impl Trouble {
    /// Whether the server refused for good.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Trouble::Refused { code: 500.., .. })
    }

    /// Whether another try may end otherwise, and cannot make a copy.
    pub fn may_pass(&self) -> bool {
        match self {
            Trouble::Name(_) | Trouble::Unreachable(_) | Trouble::Network(_) | Trouble::Garbage => true,
            Trouble::Refused { .. } => !self.is_permanent(),
            Trouble::Unanswered(_) | Trouble::Tls(_) | Trouble::BeforeTls | Trouble::Lacks(_) => false,
        }
    }

    /// Whether one answer took too long. The kernel's word for it is EAGAIN, which says nothing to a reader.
    pub fn is_slow(&self) -> bool {
        let Trouble::Network(error) = self else { return false };
        matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
    }

    /// What the operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Trouble::Name(_) => "look at `host` of `mail.smtp`, and at this host's name servers (/etc/resolv.conf)",
            Trouble::Unreachable(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "no server listens there: look at `host` and `port` of `mail.smtp`"
            }
            Trouble::Unreachable(_) => {
                "look at `host` and `port` of `mail.smtp`, and whether a firewall lets this host connect to it"
            }
            Trouble::Network(_) => {
                "look into the server's log, and whether `port` and `security` of `mail.smtp` belong together"
            }
            Trouble::Unanswered(_) => {
                "look into the server's log whether it took the mail; it is sent again with the next run"
            }
            Trouble::Tls(error) => of_tls(error),
            Trouble::BeforeTls => {
                "somebody may be on the way: ask who runs the server, or use `security: tls`, which begins with TLS"
            }
            Trouble::Lacks("STARTTLS") => {
                "use `security: tls` with its port for that (mostly 465), or `none` for a server of this very host"
            }
            Trouble::Lacks(what) if what.contains("login") => {
                "leave `username` out if the server needs no login, or ask who runs it for PLAIN"
            }
            Trouble::Lacks(_) => "ask who runs the server, or name another one by `mail.smtp.host`",
            Trouble::Refused { stage, text, .. } => of_stage(meant(*stage, text)),
            Trouble::Garbage => "is that a mail server? look at `host`, `port` and `security` of `mail.smtp`",
        }
    }
}

fn of_tls(error: &rustls::Error) -> &'static str {
    use rustls::Error::{InvalidCertificate, InvalidMessage};
    match error {
        InvalidCertificate(CertificateError::UnknownIssuer) => {
            "if its certificate is of your own authority, name that authority's certificate by `mail.smtp.ca_file`"
        }
        InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            "write `mail.smtp.host` as the certificate has it"
        }
        InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "its certificate must be renewed, or this host's clock is wrong (date)",
        InvalidCertificate(_) => "its certificate must be one that an authority issued, not the authority's own",
        InvalidMessage(_) => {
            "no TLS is spoken at that port at first: use `security: starttls`, or the port for `tls` (mostly 465)"
        }
        _ => "ask who runs the server whether it speaks TLS 1.2 or 1.3",
    }
}

/// What a refusal is about. By default Postfix rejects the greeting and the sender only at the first recipient
/// (`smtpd_delay_reject`); the text says which of them it means.
fn meant(stage: SmtpStage, text: &str) -> SmtpStage {
    let text = text.to_ascii_lowercase();
    match stage {
        SmtpStage::Recipient if text.contains("helo command rejected") => SmtpStage::Greeting,
        SmtpStage::Recipient if text.contains("sender address rejected") => SmtpStage::Sender,
        stage => stage,
    }
}

fn of_stage(stage: SmtpStage) -> &'static str {
    match stage {
        SmtpStage::Greeting => "name this host as the server wants it, by `mail.smtp.ehlo`; or ask who runs the server",
        SmtpStage::Login => "look at `username` and the password of `mail.smtp`",
        SmtpStage::Sender => "name a sender that the server takes, by `mail.from`",
        SmtpStage::Recipient => "look at `mail.to`",
        SmtpStage::Mail => "ask who runs the server; its log may say more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_comes_late_is_told_as_what_it_is_about() {
        for (text, key) in [
            ("5.5.2 <web>: Helo command rejected: need fully-qualified hostname", "`mail.smtp.ehlo`"),
            ("5.1.8 <root@web>: Sender address rejected: Domain not found", "`mail.from`"),
            ("5.1.1 <nobody@example.org>: Recipient address rejected: User unknown", "`mail.to`"),
        ] {
            let refused = Trouble::Refused { stage: SmtpStage::Recipient, code: 550, text: text.to_owned() };
            assert!(refused.hint().contains(key), "{text}: {}", refused.hint());
        }
    }
}
