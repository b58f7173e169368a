//! Owns: the way of a mail to a server: how often it is tried, and how long it may take. Must not: keep what the server did not
//! take.

mod reply;
mod session;
mod stream;

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lettre::address::Envelope;

use self::session::Session;
use super::{Error, secret};
use crate::config::{Security, Smtp};

/// How often a server is tried that may be better in a moment.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// So many times the time for one answer is what a mail may take in all, tries included.
const PATIENCE: u32 = 4;

/// Why a server did not take a mail.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The network, or the server's end of it.
    #[error("the connection failed")]
    Network(#[from] io::Error),
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
    #[error("it answered {code} {text}")]
    Refused {
        /// Its code.
        code: u16,
        /// Its words.
        text: String,
    },
    /// Its answer is not SMTP.
    #[error("its answer is not SMTP")]
    Garbage,
}

impl Trouble {
    /// Whether the server refused for good.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Trouble::Refused { code: 500.., .. })
    }

    /// Whether another try may end otherwise.
    fn may_pass(&self) -> bool {
        match self {
            Trouble::Network(_) | Trouble::Garbage => true,
            Trouble::Refused { .. } => !self.is_permanent(),
            Trouble::Tls(_) | Trouble::BeforeTls | Trouble::Lacks(_) => false,
        }
    }

    /// Whether one answer took too long. The kernel's word for it is EAGAIN, which says nothing to a reader.
    fn is_slow(&self) -> bool {
        let Trouble::Network(error) = self else { return false };
        matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
    }
}

/// Sends a mail.
pub(super) fn send(smtp: &Smtp, envelope: &Envelope, bytes: &[u8]) -> Result<(), Error> {
    let (envelope, bytes) = (envelope.clone(), bytes.to_owned());
    patiently(smtp, move |server| tries(server, &envelope, &bytes))
}

/// Connects and logs in, and no more.
pub(super) fn reach(smtp: &Smtp) -> Result<(), Error> {
    patiently(smtp, |server| server.open().map(Session::quit))
}

/// A server, with all that is needed to begin a session.
struct Server {
    smtp: Smtp,
    tls: Option<stream::Tls>,
    password: Option<String>,
}

impl Server {
    fn of(smtp: &Smtp) -> Result<Server, Error> {
        let tls = match smtp.security {
            Security::StartTls | Security::Tls => Some(stream::Tls::trusting(smtp)?),
            Security::None => None,
        };
        let password = smtp.login.as_ref().map(|login| secret::read(&login.password)).transpose()?;
        Ok(Server { smtp: smtp.clone(), tls, password })
    }

    fn open(&self) -> Result<Session, Trouble> {
        let mut session = Session::open(&self.smtp, self.tls.as_ref())?;
        if let (Some(login), Some(password)) = (&self.smtp.login, &self.password) {
            session.log_in(&login.username, password)?;
        }
        Ok(session)
    }
}

/// Does something with a server. Its timeout is for one read or write: a server that says a byte now and then is left to a
/// thread.
fn patiently(smtp: &Smtp, act: impl FnOnce(&Server) -> Result<(), Trouble> + Send + 'static) -> Result<(), Error> {
    let name = name(smtp);
    let server = Server::of(smtp)?;
    let (done, end) = mpsc::channel();
    thread::spawn(move || done.send(act(&server)));
    let patience = smtp.timeout * PATIENCE;
    let slow = |time: Duration| Error::Slow { by: format!("the mail server {name}"), seconds: time.as_secs() };
    match end.recv_timeout(patience) {
        Ok(Err(source)) if source.is_slow() => Err(slow(smtp.timeout)),
        Ok(result) => result.map_err(|source| Error::Smtp { server: name, source }),
        Err(_) => Err(slow(patience)),
    }
}

fn name(smtp: &Smtp) -> String {
    format!("{}:{}", smtp.host, smtp.port)
}

fn tries(server: &Server, envelope: &Envelope, bytes: &[u8]) -> Result<(), Trouble> {
    let mut left = TRIES;
    loop {
        left -= 1;
        let sent = server.open().and_then(|mut session| {
            session.send(envelope, bytes)?;
            session.quit();
            Ok(())
        });
        match sent {
            Err(error) if left > 0 && error.may_pass() => tracing::info!(%error, "the mail server is tried again"),
            sent => return sent,
        }
        thread::sleep(PAUSE);
    }
}
