//! Owns: the ways out of this host: a local program, or a mail server over TLS. Must not: keep what could not be sent.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lettre::address::Envelope;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{SmtpTransport, Transport as _};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use super::Error;
use crate::config::{Mail, Secret, Security, Smtp, Transport};

/// How long the local program may take.
const SENDMAIL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a server is tried that may be better in a moment.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// So many times the time for one answer is what a mail may take in all, tries included.
const PATIENCE: u32 = 4;

/// Sends the bytes of a mail, whose recipients are in `envelope` and in its header fields.
///
/// # Errors
/// It was not taken, as far as can be known.
pub fn send(mail: &Mail, envelope: &Envelope, bytes: &[u8]) -> Result<(), Error> {
    match &mail.transport {
        Transport::Sendmail(program) => sendmail(program, bytes),
        Transport::Smtp(smtp) => submit(smtp, envelope, bytes),
    }
}

fn sendmail(program: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::Sendmail { program: program.to_owned(), source };
    // `-t`: recipients are those of the header; `-i`: a line with a dot ends nothing.
    let mut child = Command::new(program)
        .args(["-i", "-t"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let stdin = child.stdin.take();
    // One that reads nothing would keep us at the pipe.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(text.as_bytes())));
    let stderr = child.stderr.take();
    let (said, says) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.map(|stderr| stderr.take(4096).read_to_end(&mut text));
        let _ = said.send(String::from_utf8_lossy(&text).trim().to_owned());
    });
    if !ends(&child, SENDMAIL_TIMEOUT).map_err(failed)? {
        let _ = child.kill();
        let _ = child.wait();
        let by = program.display().to_string();
        return Err(Error::Slow { by, seconds: SENDMAIL_TIMEOUT.as_secs() });
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    // What it left behind may hold the pipe.
    let said = says.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    let how = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    Err(Error::Refused { program: program.to_owned(), how })
}

/// Waits for the end of a process; whether it came.
fn ends(child: &Child, wait: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut events = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let timeout = Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    Ok(rustix::io::retry_on_intr(|| rustix::event::poll(&mut events, Some(&timeout)))? > 0)
}

fn submit(smtp: &Smtp, envelope: &Envelope, bytes: &[u8]) -> Result<(), Error> {
    let server = format!("{}:{}", smtp.host, smtp.port);
    let transport = transport(smtp, &server)?;
    let (envelope, bytes) = (envelope.clone(), bytes.to_owned());
    let (done, end) = mpsc::channel();
    // Its timeout is for one read or write: a server that says a byte now and then is left to a thread.
    thread::spawn(move || done.send(tries(&transport, &envelope, &bytes)));
    let patience = smtp.timeout * PATIENCE;
    match end.recv_timeout(patience) {
        Ok(result) => result.map_err(|source| Error::Smtp { server, source }),
        Err(_) => Err(Error::Slow { by: format!("the mail server {server}"), seconds: patience.as_secs() }),
    }
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
        builder = builder.credentials(Credentials::new(login.username.clone(), password(&login.password)?));
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

/// The first line of what is there.
fn password(secret: &Secret) -> Result<String, Error> {
    let file = |path: &Path| (path.display().to_string(), std::fs::read_to_string(path));
    let (place, read) = match secret {
        Secret::File(path) => file(path),
        Secret::Env(name) => {
            let value = std::env::var(name).map_err(|_| io::Error::new(io::ErrorKind::NotFound, "it is not set"));
            (format!("the variable {name}"), value)
        }
        Secret::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
            Some(folder) => file(&Path::new(&folder).join(name)),
            None => {
                let error = io::Error::new(io::ErrorKind::NotFound, "systemd gives this process no credentials");
                (format!("the credential {name}"), Err(error))
            }
        },
    };
    let line = read.map(|text| text.lines().next().unwrap_or_default().to_owned());
    match line {
        Ok(line) if line.is_empty() => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
        line => line,
    }
    .map_err(|source| Error::Secret { place, source })
}
