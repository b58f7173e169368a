//! Owns: the way of a mail to a server: how often it is tried, and how long it may take. Must not: keep what the server did not
//! take.

mod reply;
mod session;
mod stream;
mod trouble;

use std::thread;
use std::time::Duration;

pub use self::trouble::{SmtpStage, Trouble};

use self::session::Session;
use super::message::Envelope;
use super::{Error, secret};
use crate::config::{Security, Smtp};
use crate::sys::patience::Patience;

/// How often a server is tried that may be better in a moment.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// So many times the time for one answer is what a mail may take in all, tries included.
const PATIENCE: u32 = 4;
/// How long to wait for the reply to a whole mail: the server may be running filters. If the client disconnects earlier, the
/// server may still deliver the mail, and a retry would deliver a copy: RFC 5321, 4.5.3.2.6.
const AFTER_DATA: Duration = Duration::from_secs(600);

/// Sends a mail; those recipients that were refused while others were taken.
pub(super) fn send(smtp: &Smtp, envelope: Envelope, bytes: &[u8]) -> Result<Vec<Error>, Error> {
    let bytes = bytes.to_owned();
    let patience = smtp.timeout * PATIENCE + AFTER_DATA;
    let refused = patiently(smtp, patience, move |server| tries(server, &envelope, &bytes))?;
    let told =
        |(to, source)| Error::Recipient { to, by: format!("the mail server {}", name(smtp)), source: Box::new(source) };
    Ok(refused.into_iter().map(told).collect())
}

/// Connects and logs in, and no more.
pub(super) fn reach(smtp: &Smtp) -> Result<(), Error> {
    patiently(smtp, smtp.timeout * PATIENCE, |server| server.open().map(Session::quit))
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
fn patiently<T: Send + 'static>(
    smtp: &Smtp,
    patience: Duration,
    act: impl FnOnce(&Server) -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Error> {
    let name = name(smtp);
    let server = Server::of(smtp)?;
    let slow = |time: Duration| Error::Slow { by: format!("the mail server {name}"), seconds: time.as_secs() };
    match Patience::new(patience).call(move || act(&server)) {
        Ok(Err(source)) if source.is_slow() => Err(slow(smtp.timeout)),
        Ok(result) => result.map_err(|source| Error::Smtp { server: name, source }),
        Err(_) => Err(slow(patience)),
    }
}

fn name(smtp: &Smtp) -> String {
    format!("{}:{}", smtp.host, smtp.port)
}

fn tries(server: &Server, envelope: &Envelope, bytes: &[u8]) -> Result<Vec<(String, Trouble)>, Trouble> {
    let mut left = TRIES;
    loop {
        left -= 1;
        let sent = server.open().and_then(|mut session| {
            let refused = session.send(envelope, bytes)?;
            session.quit();
            Ok(refused)
        });
        match sent {
            Err(error) if left > 0 && error.may_pass() => tracing::info!(%error, "the mail server is tried again"),
            sent => return sent,
        }
        thread::sleep(PAUSE);
    }
}
