//! Owns: why a mail could not be made or sent. Must not: hold a secret.

use std::io;
use std::path::PathBuf;

use super::Trouble;
use crate::sys::trust::Refused;

/// Why a mail could not be made or sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is none once this host's name is added to it.
    #[error("{0:?} is no address that can be mailed to")]
    Address(String),
    /// The mail cannot be put together.
    #[error("the mail cannot be put together")]
    Message(#[from] lettre::error::Error),
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
            Error::Address(_) => format!("write it as user@host.domain; {again}"),
            Error::Untrusted { source, .. } => return source.hint(),
            Error::Sendmail { .. } => {
                format!("install a mail transport agent, or name a server by `mail.smtp`; {again}")
            }
            Error::Refused { .. } => format!("look into the log of the local mail system; {again}"),
            Error::Slow { .. } => format!("look at the way to it, or raise `mail.smtp.timeout`; {again}"),
            Error::Secret { .. } => format!("look at `mail.smtp` of the configuration; {again}"),
            Error::Certificates { .. } => format!("`mail.smtp.ca_file` must hold certificates in PEM form; {again}"),
            Error::Smtp { source: Trouble::Tls(_), .. } => {
                format!("if its certificate is of your own authority, name that by `mail.smtp.ca_file`; {again}")
            }
            Error::Smtp { source: Trouble::BeforeTls, .. } => {
                format!(
                    "somebody may be on the way: ask who runs the server, or use `security: tls`, which begins with TLS; {again}"
                )
            }
            Error::Smtp { .. } => format!("look at host, port, security and login of `mail.smtp`; {again}"),
            Error::Waiting { source, .. } => return source.hint(),
            Error::Dropped { .. } => {
                "read them: the files that end in `.refused` in `mail-spool` of the state folder; \
                look at `to` and `from` of `mail`"
                    .to_owned()
            }
            Error::Spool { .. } | Error::Known { .. } => {
                "look at the mode and the file system of the state folder".to_owned()
            }
            Error::Message(_) | Error::Template(_) => return None,
        })
    }
}
