//! Chooses how an email is sent. It must not know the details of a transport or keep unsent emails.

use std::path::Path;

use rustix::fs::{Access, access};

use super::{Error, message, program, smtp};
use crate::config::{Mail, Transport};
use crate::sys::shebang;
use crate::sys::trust::{self, Refused};

/// Sends an email to all recipients in its header. Returns the rejected ones if others were accepted.
///
/// # Errors
/// No recipient receives it, as far as known.
pub fn send(mail: &Mail, bytes: &[u8]) -> Result<Vec<Error>, Error> {
    trusted(mail)?;
    match &mail.transport {
        Transport::Sendmail(program) => {
            executable(program).and_then(|()| program::send(program, &mail.to, bytes, program::TIMEOUT))
        }
        Transport::Smtp(smtp) => smtp::send(smtp, message::envelope(mail)?, bytes),
    }
}

/// Checks whether an email could be sent now, without sending one: the program can be run, or the server is reachable over TLS and
/// accepts the login.
///
/// # Errors
/// An email could not be sent.
pub fn reach(mail: &Mail) -> Result<(), Error> {
    trusted(mail)?;
    match &mail.transport {
        Transport::Sendmail(program) => executable(program),
        Transport::Smtp(smtp) => message::envelope(mail).and_then(|_| smtp::reach(smtp)),
    }
}

/// Files that another user could change. Missing files are reported where they are used.
pub fn untrusted(mail: &Mail) -> Vec<Error> {
    let judged = match &mail.transport {
        Transport::Sendmail(program) => vec![("the program `sendmail`", trust::file(program))],
        Transport::Smtp(smtp) => {
            let password = smtp.login.as_ref().and_then(|login| login.password.path());
            let password = password.map(|path| ("the password file", trust::input(&path)));
            let authority = smtp.ca_file.as_ref().map(|path| ("`ca_file`", trust::input(path)));
            password.into_iter().chain(authority).collect()
        }
    };
    let refused = judged.into_iter().filter_map(|(what, judged)| Some((what, judged.err()?)));
    let refused = refused.filter(|(_, refused)| matches!(refused, Refused::Untrusted { .. }));
    refused.map(|(what, source)| Error::Untrusted { what, source }).collect()
}

fn trusted(mail: &Mail) -> Result<(), Error> {
    untrusted(mail).into_iter().next().map_or(Ok(()), Err)
}

/// A description of the transport.
pub fn way(mail: &Mail) -> String {
    match &mail.transport {
        Transport::Sendmail(program) => program.display().to_string(),
        Transport::Smtp(smtp) => format!("mail server {}:{}", smtp.host, smtp.port),
    }
}

fn executable(program: &Path) -> Result<(), Error> {
    let found = std::fs::metadata(program).and_then(|found| match found.is_file() {
        true => Ok(access(program, Access::EXEC_OK)?),
        false => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")),
    });
    found.map_err(|source| Error::Sendmail { program: program.to_owned(), source })?;
    Ok(shebang::check(program)?)
}
