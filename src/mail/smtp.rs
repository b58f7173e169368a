//! Sends mail to a server, with retries and timeouts. It must not keep emails that the server did not accept.

mod reply;
mod session;
mod stream;
mod trouble;

use std::thread;
use std::time::Duration;

pub use self::trouble::{SmtpStage, Trouble};

use self::session::Session;
use super::Error;
use super::message::Envelope;
use crate::config::{Security, Smtp};
use crate::sys::patience::Patience;
use crate::sys::secret::SecretError;

/// Number of tries for temporary failures.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// An email may take this many times the timeout of one reply, including retries.
const PATIENCE: u32 = 4;
/// How long to wait for the reply to a whole mail: the server may be running filters. If the client disconnects earlier, the
/// server may still deliver the email, and a retry would deliver a copy: RFC 5321, 4.5.3.2.6.
const AFTER_DATA: Duration = Duration::from_secs(600);

/// Sends an email. Returns the rejected recipients if others were accepted.
pub(super) fn send(smtp: &Smtp, envelope: Envelope, bytes: &[u8]) -> Result<Vec<Error>, Error> {
    let bytes = bytes.to_owned();
    let patience = smtp.timeout * PATIENCE + AFTER_DATA;
    let refused = patiently(smtp, patience, move |server| tries(server, &envelope, &bytes))?;
    let told =
        |(to, source)| Error::Recipient { to, by: format!("the mail server {}", name(smtp)), source: Box::new(source) };
    Ok(refused.into_iter().map(told).collect())
}

/// Connects and logs in without sending an email.
pub(super) fn reach(smtp: &Smtp) -> Result<(), Error> {
    patiently(smtp, smtp.timeout * PATIENCE, |server| server.open().map(Session::quit))
}

/// A server with everything that a session needs.
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
        let password = smtp.login.as_ref().map(|login| login.password.read()).transpose();
        let password = password.map_err(|SecretError { place, source }| Error::Secret { place, source })?;
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

/// Limits the total time of an action. The timeout of a server applies only to one read or write: one that sends a byte
/// now and then is left to its thread.
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
            Err(error) if left > 0 && error.may_pass() => tracing::info!(%error, "retrying the mail server"),
            sent => return sent,
        }
        thread::sleep(PAUSE);
    }
}
