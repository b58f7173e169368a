//! Owns: the way of a mail to a server, over TLS unless the configuration says otherwise. Must not: keep what it did not take.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lettre::address::Envelope;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{SmtpTransport, Transport as _};

use super::{Error, secret};
use crate::config::{Security, Smtp};

/// How often a server is tried that may be better in a moment.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// So many times the time for one answer is what a mail may take in all, tries included.
const PATIENCE: u32 = 4;

/// Sends a mail.
pub(super) fn send(smtp: &Smtp, envelope: &Envelope, bytes: &[u8]) -> Result<(), Error> {
    let (envelope, bytes) = (envelope.clone(), bytes.to_owned());
    patiently(smtp, move |transport| tries(transport, &envelope, &bytes))
}

/// Connects and logs in, and no more.
pub(super) fn reach(smtp: &Smtp) -> Result<(), Error> {
    patiently(smtp, |transport| transport.test_connection().map(drop))
}

/// Does something with a server. Its timeout is for one read or write: a server that says a byte now and then is left to a
/// thread.
fn patiently(
    smtp: &Smtp,
    act: impl FnOnce(&SmtpTransport) -> Result<(), SmtpError> + Send + 'static,
) -> Result<(), Error> {
    let server = format!("{}:{}", smtp.host, smtp.port);
    let transport = transport(smtp, &server)?;
    let (done, end) = mpsc::channel();
    thread::spawn(move || done.send(act(&transport)));
    let patience = smtp.timeout * PATIENCE;
    let slow = |time: Duration| Error::Slow { by: format!("the mail server {server}"), seconds: time.as_secs() };
    match end.recv_timeout(patience) {
        Ok(Err(source)) if is_slow(&source) => Err(slow(smtp.timeout)),
        Ok(result) => result.map_err(|source| Error::Smtp { server, source }),
        Err(_) => Err(slow(patience)),
    }
}

/// Whether one answer took too long. The kernel's word for it is EAGAIN, which says nothing to a reader.
fn is_slow(error: &SmtpError) -> bool {
    let mut causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    causes.any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    })
}

fn tries(transport: &SmtpTransport, envelope: &Envelope, bytes: &[u8]) -> Result<(), SmtpError> {
    let mut left = TRIES;
    loop {
        left -= 1;
        match transport.send_raw(envelope, bytes) {
            Ok(_) => return Ok(()),
            // Another try is told the same.
            Err(error) if left == 0 || error.is_permanent() || error.is_tls() || error.is_client() => {
                return Err(error);
            }
            Err(error) => tracing::info!(%error, "the mail server is tried again"),
        }
        thread::sleep(PAUSE);
    }
}

fn transport(smtp: &Smtp, server: &str) -> Result<SmtpTransport, Error> {
    let tls = match smtp.security {
        Security::StartTls => Tls::Required(parameters(smtp, server)?),
        Security::Tls => Tls::Wrapper(parameters(smtp, server)?),
        Security::None => Tls::None,
    };
    // "Dangerous" is what it begins with; `tls` says what becomes of it, and the configuration lets no password go in clear.
    let mut builder = SmtpTransport::builder_dangerous(&smtp.host).port(smtp.port).timeout(Some(smtp.timeout)).tls(tls);
    if let Some(login) = &smtp.login {
        builder = builder.credentials(Credentials::new(login.username.clone(), secret::read(&login.password)?));
    }
    Ok(builder.build())
}

fn parameters(smtp: &Smtp, server: &str) -> Result<TlsParameters, Error> {
    let mut builder = TlsParameters::builder(smtp.host.clone());
    if let Some(path) = &smtp.ca_file {
        let wrong = |source| Error::Certificates { path: path.clone(), source };
        let pem = std::fs::read(path).map_err(|error| wrong(error.into()))?;
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| wrong(error.into()))?);
    }
    builder.build_rustls().map_err(|source| Error::Smtp { server: server.to_owned(), source })
}
