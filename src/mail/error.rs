//! Owns: why a mail could not be made or sent. Must not: hold a secret.

use std::io;
use std::path::PathBuf;

use crate::sys::trust::Refused;

/// Why a mail could not be made or sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is none.
    #[error("{0:?} is no address that can be mailed to")]
    Address(String),
    /// A user of this host, whom no mail server knows.
    #[error("{0:?} has no domain, and a mail server does not know the users of this host")]
    Local(String),
    /// There is no domain to send from.
    #[error("the mail has no sender: the name of this host, {0}, has no domain")]
    Sender(String),
    /// One of several recipients was refused; the others get the mail.
    #[error("{to} does not get the mail: {by} refused that recipient")]
    Recipient {
        /// The recipient.
        to: String,
        /// The program or the server.
        by: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A built-in template does not render.
    #[error("the mail cannot be put together")]
    Template(#[from] Box<handlebars::RenderError>),
    /// The local program cannot be run.
    #[error("{} cannot be run", program.display())]
    Sendmail {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another user could change what a mail is sent by.
    #[error("{what} is not trusted")]
    Untrusted {
        /// What it is.
        what: &'static str,
        /// What is wrong.
        source: Refused,
    },
    /// The local program is a script that cannot be started.
    #[error("the program `sendmail` cannot be run")]
    Script(#[from] Refused),
    /// The local program refused the mail.
    #[error("{} refused the mail ({how})", program.display())]
    Refused {
        /// The program.
        program: PathBuf,
        /// Its exit code, if it ended by itself.
        code: Option<i32>,
        /// Its exit status, and what it said.
        how: String,
    },
    /// It took too long.
    #[error("{by} did not take the mail within {seconds} s")]
    Slow {
        /// The program or the server.
        by: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The password cannot be had.
    #[error("the password for the mail server cannot be read from {place}")]
    Secret {
        /// A file or a variable.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("{}: the certificates cannot be used", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The mail server did not take it.
    #[error("the mail server {server} did not take the mail")]
    Smtp {
        /// Host and port.
        server: String,
        /// Why not.
        source: super::Trouble,
    },
    /// The mail waits, for an older one cannot be sent.
    #[error("{count} mails of earlier runs cannot be sent")]
    Waiting {
        /// How many.
        count: usize,
        /// Why not.
        source: Box<Error>,
    },
    /// Mails that waited were refused for good.
    #[error("{count} mails of earlier runs are refused for good, and are not tried again")]
    Dropped {
        /// How many.
        count: usize,
        /// Why the last of them was.
        source: Box<Error>,
    },
    /// How runs are mailed cannot be kept for one that cannot read its configuration.
    #[error("{}: cannot be written", path.display())]
    Known {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The spool cannot be used.
    #[error("{}: the spool of mails cannot be used", path.display())]
    Spool {
        /// The folder or the file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Exit codes of `sendmail` that are of the mail or its recipients: EX_DATAERR, EX_NOUSER, EX_NOHOST of `sysexits.h`.
const OF_THE_MAIL: [i32; 3] = [65, 67, 68];

impl Error {
    /// Whether another try of the same mail would be told the same, if the way is in order otherwise.
    pub fn is_final(&self) -> bool {
        match self {
            Error::Smtp { source, .. } => source.is_permanent(),
            Error::Refused { code, .. } => code.is_some_and(|code| OF_THE_MAIL.contains(&code)),
            _ => false,
        }
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        let again = "then try it: `kvmbackup check --send-test`";
        Some(match self {
            Error::Address(_) | Error::Local(_) => {
                format!("write it in `mail.to` or `mail.from` as user@domain; {again}")
            }
            Error::Sender(_) => format!("name the sender, user@domain, by `mail.from`; {again}"),
            Error::Recipient { .. } => format!("correct or remove it in `mail.to`; {again}"),
            Error::Untrusted { source, .. } | Error::Script(source) => return source.hint(),
            Error::Sendmail { .. } => {
                format!("install a mail transport agent, or name a server by `mail.smtp`; {again}")
            }
            Error::Refused { .. } => format!("look into the log of the local mail system; {again}"),
            Error::Slow { .. } => {
                format!(
                    "look at the way to it, and whether `port` and `security` of `mail.smtp` belong together \
                    (465 and tls, 587 and starttls); or raise its `timeout`; {again}"
                )
            }
            Error::Secret { .. } => format!("look at `mail.smtp` of the configuration; {again}"),
            Error::Certificates { .. } => format!("`mail.smtp.ca_file` must hold certificates in PEM form; {again}"),
            Error::Smtp { source, .. } => format!("{}; {again}", source.hint()),
            Error::Waiting { source, .. } => return source.hint(),
            Error::Dropped { .. } => {
                "read them: the files that end in `.refused` in `mail-spool` of the state folder; \
                look at `to` and `from` of `mail`"
                    .to_owned()
            }
            Error::Spool { path, source } if source.kind() == io::ErrorKind::InvalidData => {
                format!("see what lies there, and move it away: ls -l {}", path.display())
            }
            Error::Spool { .. } | Error::Known { .. } => {
                "look at the mode and the file system of the state folder".to_owned()
            }
            Error::Template(_) => return None,
        })
    }
}
