//! Causes why a mail server did not accept an email, each with a hint. They must not contain secrets.

use std::fmt;
use std::io;

use rustls::CertificateError;

/// Why a server did not accept an email.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// This host cannot resolve its name.
    #[error("cannot resolve its name")]
    Name(#[source] io::Error),
    /// No connection to its address.
    #[error("cannot connect to it")]
    Unreachable(#[source] io::Error),
    /// The connection failed during a session.
    #[error("the connection failed")]
    Network(#[from] io::Error),
    /// It received the whole email and did not reply.
    #[error("it did not reply to the end of the email and may have accepted it")]
    Unanswered(#[source] io::Error),
    /// The certificate is not trusted, or no common TLS version exists.
    #[error("TLS failed")]
    Tls(#[from] rustls::Error),
    /// Cleartext replies followed the reply to STARTTLS. They could be mistaken for replies inside TLS.
    #[error("it sent more than the reply to STARTTLS before TLS began")]
    BeforeTls,
    /// It does not offer a required extension.
    #[error("it does not offer {0}")]
    Lacks(&'static str),
    /// It rejected a command: temporarily with 4xx, permanently with 5xx.
    #[error("{stage}: it replied {code} {text}")]
    Refused {
        /// What it rejected.
        stage: SmtpStage,
        /// The code of its reply.
        code: u16,
        /// The text of its reply.
        text: String,
    },
    /// Its reply is not SMTP.
    #[error("its reply is not SMTP")]
    Garbage,
}

/// What a server rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpStage {
    /// The connection, the name of this host, or STARTTLS.
    Greeting,
    /// User and password.
    Login,
    /// The sender.
    Sender,
    /// A recipient.
    Recipient,
    /// The email itself.
    Mail,
}

impl fmt::Display for SmtpStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SmtpStage::Greeting => "it rejected the greeting",
            SmtpStage::Login => "it rejected the login",
            SmtpStage::Sender => "it rejected the sender",
            SmtpStage::Recipient => "it rejected a recipient",
            SmtpStage::Mail => "it rejected the email",
        })
    }
}

impl Trouble {
    /// Whether the server rejected it permanently.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Trouble::Refused { code: 500.., .. })
    }

    /// Whether a retry may succeed and cannot deliver a copy.
    pub fn may_pass(&self) -> bool {
        match self {
            Trouble::Name(_) | Trouble::Unreachable(_) | Trouble::Network(_) | Trouble::Garbage => true,
            Trouble::Refused { .. } => !self.is_permanent(),
            Trouble::Unanswered(_) | Trouble::Tls(_) | Trouble::BeforeTls | Trouble::Lacks(_) => false,
        }
    }

    /// Whether a reply took too long. The error of the kernel (EAGAIN) would not explain this to an operator.
    pub fn is_slow(&self) -> bool {
        let Trouble::Network(error) = self else { return false };
        matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
    }

    /// What the operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Trouble::Name(_) => "Check `host` of `mail.smtp` and the name servers of this host (/etc/resolv.conf).",
            Trouble::Unreachable(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "No server listens there: check `host` and `port` of `mail.smtp`."
            }
            Trouble::Unreachable(_) => {
                "Check `host` and `port` of `mail.smtp`, and that no firewall blocks the connection."
            }
            Trouble::Network(_) => {
                "Look in the server's log, and check that `port` and `security` of `mail.smtp` match."
            }
            Trouble::Unanswered(_) => {
                "Check in the server's log whether it accepted the email; the next run sends it again."
            }
            Trouble::Tls(error) => of_tls(error),
            Trouble::BeforeTls => {
                "The connection may be under attack: ask the operator of the server, or use `security: tls`, which starts with TLS."
            }
            Trouble::Lacks("STARTTLS") => {
                "Use `security: tls` with its port (usually 465), or `none` for a server on this host."
            }
            Trouble::Lacks(what) if what.contains("login") => {
                "Remove `username` if the server needs no login, or ask its operator to offer PLAIN."
            }
            Trouble::Lacks(_) => "Ask the operator of the server, or set `mail.smtp.host` to another server.",
            Trouble::Refused { stage, text, .. } => of_stage(meant(*stage, text)),
            Trouble::Garbage => "Check `host`, `port` and `security` of `mail.smtp`: this may not be a mail server.",
        }
    }
}

fn of_tls(error: &rustls::Error) -> &'static str {
    use rustls::Error::{InvalidCertificate, InvalidMessage};
    match error {
        InvalidCertificate(CertificateError::UnknownIssuer) => {
            "If the certificate comes from your own authority, set `mail.smtp.ca_file` to the authority's certificate."
        }
        InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            "Set `mail.smtp.host` to the name in the certificate."
        }
        InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "Renew the certificate of the server, or correct the clock of this host (date).",
        InvalidCertificate(_) => {
            "The certificate must be issued by an authority; it cannot be the authority's own certificate."
        }
        InvalidMessage(_) => {
            "This port does not start with TLS: use `security: starttls`, or the port for `tls` (usually 465)."
        }
        _ => "Ask the operator of the server whether it supports TLS 1.2 or 1.3.",
    }
}

/// What a rejection is about. By default, Postfix rejects the greeting and the sender only at the first recipient
/// (`smtpd_delay_reject`); the text shows which of them it means.
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
        SmtpStage::Greeting => {
            "Set `mail.smtp.ehlo` to a host name that the server accepts, or ask the operator of the server."
        }
        SmtpStage::Login => "Check `username` and the password of `mail.smtp`.",
        SmtpStage::Sender => "Set `mail.from` to a sender that the server accepts.",
        SmtpStage::Recipient => "Check the recipients in `mail.to`.",
        SmtpStage::Mail => "Ask the operator of the server; its log may contain the reason.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_of_a_late_rejection_names_the_key_to_change() {
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
