//! Errors of building and sending emails. They must not contain secrets.

use std::io;
use std::path::PathBuf;

use crate::sys::trust::Refused;

/// Why an email could not be made or sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is invalid.
    #[error("invalid mail address {0:?}")]
    Address(String),
    /// A user of this host, which mail servers do not know.
    #[error("{0:?} has no domain, and a mail server does not know the users of this host")]
    Local(String),
    /// The sender has no domain.
    #[error("no sender address: the name of this host, {0}, has no domain")]
    Sender(String),
    /// One of several recipients was rejected; the others receive the email.
    #[error("{by} rejected the recipient {to}")]
    Recipient {
        /// The recipient.
        to: String,
        /// The program or the server.
        by: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A built-in template cannot be rendered.
    #[error("cannot render the email")]
    Template(#[from] Box<handlebars::RenderError>),
    /// The local program cannot be run.
    #[error("cannot run {}", program.display())]
    Sendmail {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another user could change a file that is used to send mail.
    #[error("{what} is not trusted")]
    Untrusted {
        /// What it is.
        what: &'static str,
        /// What is wrong.
        source: Refused,
    },
    /// The local program is a script that cannot be started.
    #[error("cannot run the program of `sendmail`")]
    Script(#[from] Refused),
    /// The local program rejected the email.
    #[error("{} rejected the email ({how})", program.display())]
    Refused {
        /// The program.
        program: PathBuf,
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// Its exit status and output.
        how: String,
    },
    /// It took too long.
    #[error("{by} did not accept the email within {seconds} s")]
    Slow {
        /// The program or the server.
        by: String,
        /// The time limit.
        seconds: u64,
    },
    /// The password cannot be read.
    #[error("cannot read the password for the mail server from {place}")]
    Secret {
        /// A file or a variable.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("cannot use the certificates in {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The mail server did not accept the email.
    #[error("the mail server {server} did not accept the email")]
    Smtp {
        /// Host and port.
        server: String,
        /// Why not.
        source: super::Trouble,
    },
    /// The email waits because an older one cannot be sent.
    #[error("cannot send {count} emails of earlier runs")]
    Waiting {
        /// How many.
        count: usize,
        /// Why not.
        source: Box<Error>,
    },
    /// Emails in the spool were rejected permanently.
    #[error("{count} emails of earlier runs were permanently rejected and will not be sent again")]
    Dropped {
        /// How many.
        count: usize,
        /// Why the last of them was.
        source: Box<Error>,
    },
    /// The mail settings cannot be saved for runs that cannot read their configuration.
    #[error("cannot write {}", path.display())]
    Known {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The spool cannot be used.
    #[error("cannot use the mail spool {}", path.display())]
    Spool {
        /// The directory or the file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Exit codes of `sendmail` that concern the email or its recipients: EX_DATAERR, EX_NOUSER, EX_NOHOST of `sysexits.h`.
const OF_THE_MAIL: [i32; 3] = [65, 67, 68];

impl Error {
    /// Whether a retry of the same mail would fail in the same way although other emails can be sent.
    pub fn is_final(&self) -> bool {
        match self {
            Error::Smtp { source, .. } => source.is_permanent(),
            Error::Refused { code, .. } => code.is_some_and(|code| OF_THE_MAIL.contains(&code)),
            _ => false,
        }
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        let again = "Then test it with `kvmbackup check --send-test`";
        Some(match self {
            Error::Address(_) | Error::Local(_) => {
                format!("Use the form user@domain in `mail.to` and `mail.from`. {again}")
            }
            Error::Sender(_) => format!("Set `mail.from` to the sender in the form user@domain. {again}"),
            Error::Recipient { .. } => format!("Correct or remove this recipient in `mail.to`. {again}"),
            Error::Untrusted { source, .. } | Error::Script(source) => return source.hint(),
            Error::Sendmail { .. } => {
                format!("Install a mail transport agent, or configure a server in `mail.smtp`. {again}")
            }
            Error::Refused { .. } => format!("Look in the log of the local mail system. {again}"),
            Error::Slow { .. } => {
                format!(
                    "Check the network, and that `port` and `security` of `mail.smtp` match \
                    (465 and tls, 587 and starttls), or increase `timeout`. {again}"
                )
            }
            Error::Secret { .. } => format!("Check `mail.smtp` in the configuration. {again}"),
            Error::Certificates { .. } => {
                format!("Set `mail.smtp.ca_file` to a file with certificates in PEM format. {again}")
            }
            Error::Smtp { source, .. } => format!("{} {again}", source.hint()),
            Error::Waiting { source, .. } => return source.hint(),
            Error::Dropped { .. } => {
                "Read these emails, which are the `.refused` files in `mail-spool` of the state directory, \
                and check `to` and `from` of `mail`."
                    .to_owned()
            }
            Error::Spool { path, source } if source.kind() == io::ErrorKind::InvalidData => {
                format!("Look at the file and move it away: ls -l {}", path.display())
            }
            Error::Spool { .. } | Error::Known { .. } => {
                "Check the mode and the file system of the state directory.".to_owned()
            }
            Error::Template(_) => return None,
        })
    }
}
